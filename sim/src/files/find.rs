//! A file by its path, or by the name of one that comes with the program.

use serde::de::DeserializeOwned;
use std::path::PathBuf;

/// What a file describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A device.
    Device,
    /// A link.
    Link,
    /// A cluster.
    Cluster,
    /// A scenario.
    Scenario,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Device, Kind::Link, Kind::Cluster, Kind::Scenario];

    /// The folder under `configs/`.
    pub fn folder(self) -> &'static str {
        match self {
            Kind::Device => "devices",
            Kind::Link => "links",
            Kind::Cluster => "clusters",
            Kind::Scenario => "scenarios",
        }
    }

    fn word(self) -> &'static str {
        &self.folder()[..self.folder().len() - 1]
    }
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not there, or not readable.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// Neither a path nor a known name.
    #[error("there is no {kind} called `{name}`; there are {}; or give the path of a .toml file", known.join(", "))]
    Unknown {
        /// What was asked for.
        kind: &'static str,
        /// By which name.
        name: String,
        /// What comes with the program.
        known: Vec<&'static str>,
    },
    /// It is not TOML, or a key of it is wrong.
    #[error("{name} is not sound: {cause}")]
    Toml {
        /// Which file.
        name: String,
        /// Where and why.
        cause: Box<toml::de::Error>,
    },
    /// A value that makes no sense.
    #[error("{0}")]
    Value(String),
}

macro_rules! built_in {
    ($folder:literal: $($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../../configs/", $folder, "/", $name, ".toml")))),*]
    };
}

type BuiltIn = &'static [(&'static str, &'static str)];

const DEVICES: BuiltIn = built_in!("devices": "jetson-nano" "laptop-i5" "laptop-m1" "mini-n100"
    "phone-8gen2" "phone-sd625" "phone-sd835" "pi-3b-plus" "pi-4b" "pi-4b-fan" "pi-5" "pi-zero2w");

const LINKS: BuiltIn = built_in!("links": "ethernet-100m" "ethernet-1g" "ethernet-1g-usb2"
    "wifi-6" "wifi-ac" "wifi-ac-near" "wifi-n" "wifi-n-power-save");

const CLUSTERS: BuiltIn = built_in!("clusters": "four-pi4-100m" "four-pi4-ethernet"
    "four-pi4-wifi" "home-swarm" "laptops" "one-pi4" "phones" "six-pi-zero" "thousand-pi4"
    "two-pi4-ethernet");

const SCENARIOS: BuiltIn = built_in!("scenarios": "bad-day" "one-slows-down" "thousand"
    "vgg16-wifi" "yolov2-four-pi4");

fn built_in(kind: Kind) -> BuiltIn {
    match kind {
        Kind::Device => DEVICES,
        Kind::Link => LINKS,
        Kind::Cluster => CLUSTERS,
        Kind::Scenario => SCENARIOS,
    }
}

/// The names that come with the program.
pub fn names(kind: Kind) -> Vec<&'static str> {
    built_in(kind).iter().map(|(name, _)| *name).collect()
}

/// Reads a file by path (anything with a slash or that ends in `.toml`) or by name.
pub(super) fn open<T: DeserializeOwned>(kind: Kind, reference: &str) -> Result<T, FileError> {
    let text = if reference.contains('/') || reference.ends_with(".toml") {
        let path = PathBuf::from(reference);
        std::fs::read_to_string(&path).map_err(|cause| FileError::Read { path, cause })?
    } else {
        let known = built_in(kind).iter().find(|(name, _)| *name == reference);
        let unknown =
            || FileError::Unknown { kind: kind.word(), name: reference.into(), known: names(kind) };
        known.ok_or_else(unknown)?.1.to_owned()
    };
    toml::from_str(&text).map_err(|cause| FileError::Toml {
        name: format!("the {} {reference}", kind.word()),
        cause: Box::new(cause),
    })
}
