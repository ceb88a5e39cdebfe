//! The seeds of the fuzz targets, and whatever they found, through the very functions that they call.
//! `UPDATE=1` writes the seeds that are made here anew.

// What is public there is so for the fuzz targets.
#[allow(unreachable_pub)]
#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

use model::{Element, MapId};
use net::{Identity, Register, Terms, Token};
use protocol::{
    Bundle, BundleKind, Form, FrameId, Hello, Message, Orders, PieceHeader, PlanId, TaskId,
};
use std::path::PathBuf;
use tests::GraphProblem;
use tests::problem::Tail;
use tiling::{Encoding, Rates, Region, Span};

fn folder() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds").into()
}

fn postcard<T: serde::Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).unwrap()
}

/// Small and sound examples of each kind: what a fuzzer begins with.
fn made() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut seeds = Vec::new();
    let folder = tempfile::tempdir().unwrap();

    let tails =
        [("plain", Tail::None), ("classifier", Tail::Classifier), ("two", Tail::TwoOutputs)];
    for (seed, (name, tail)) in tails.into_iter().enumerate() {
        let problem =
            GraphProblem { seed: seed as u64, layers: 3, channels: 2, rows: 5, cols: 6, tail };
        let model = problem.build(0).model;
        seeds.push(("onnx", name, model::export::to_bytes(&model).unwrap()));
        seeds.push(("graph", name, postcard(&*model.graph)));
    }

    let hello = Message::Hello(Hello::new("pi", 4, Rates::default(), 0));
    let region = Region { rows: Span { start: 0, end: 2 }, cols: Span { start: 0, end: 3 } };
    let piece = PieceHeader { map: MapId(0), region, channels: 1, element: Element::F32 };
    let bundle = Bundle {
        kind: BundleKind::Scatter,
        plan: PlanId(1),
        task: TaskId { frame: FrameId(2), stage: 0, tile: 1 },
        attempt: 0,
        pieces: vec![piece],
        forms: vec![Form { encoding: Encoding::Zeros, bytes: 9 }],
        orders: Orders::default(),
    };
    seeds.push(("messages", "hello", postcard(&hello)));
    seeds.push(("messages", "hungry", postcard(&Message::Hungry)));
    // The first variant of the header of a bulk transfer.
    seeds.push(("messages", "bundle", [vec![0], postcard(&bundle)].concat()));

    // 2 x 3 positions of one channel in each form: four bytes of region, two of channels, one of form,
    // one of element.
    let head = |form: u8| vec![0, 2, 0, 3, 1, 0, form, 0];
    let floats = |count: usize| vec![0x3f; 4 * count];
    seeds.push(("piece", "raw", [head(0), floats(6)].concat()));
    seeds.push((
        "piece",
        "palette",
        [head(1), vec![1], floats(2), vec![0, 1, 0, 1, 0, 1]].concat(),
    ));
    seeds.push(("piece", "zeros", [head(2), vec![0b11], floats(2)].concat()));
    seeds.push(("piece", "half", [head(3), vec![0x3c; 12]].concat()));
    seeds.push(("piece", "half-zeros", [head(4), vec![0b101], vec![0x3c; 4]].concat()));

    let register = Register::in_memory();
    let invitation = register.invite(&Terms::default()).unwrap();
    let address = "/ip4/192.168.1.7/tcp/47470".parse().unwrap();
    let token = Token::new(Identity::ephemeral().peer_id(), vec![address], &invitation);
    seeds.push(("token", "one", token.to_string().into()));
    let register = Register::in_file(folder.path().join("cluster.json"));
    register.invite(&Terms::default()).unwrap();
    seeds.push(("register", "one", std::fs::read(folder.path().join("cluster.json")).unwrap()));

    let npy =
        b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }";
    let mut npy = npy.to_vec();
    npy.resize(10 + 0x46 - 1, b' ');
    npy.extend(b"\n\0\0\x80\x3f\0\0\0\x40");
    seeds.push(("arrays", "npy", npy));
    seeds.push(("pictures", "ppm", b"P6 2 2 255\n0123456789ab".to_vec()));
    seeds
}

#[test]
fn every_target_takes_its_seeds() {
    if std::env::var_os("UPDATE").is_some() {
        for (target, name, bytes) in made() {
            std::fs::create_dir_all(folder().join(target)).unwrap();
            std::fs::write(folder().join(target).join(name), bytes).unwrap();
        }
    }
    for (target, takes) in fuzz::TARGETS {
        let seeds = std::fs::read_dir(folder().join(target)).unwrap();
        let seeds: Vec<PathBuf> = seeds.map(|entry| entry.unwrap().path()).collect();
        assert!(!seeds.is_empty(), "{target} has no seeds");
        for seed in seeds {
            let bytes = std::fs::read(&seed).unwrap();
            assert!(bytes.len() < 20_000, "{} is no small seed", seed.display());
            takes(&bytes);
            // Cut short and with a bit turned, anything else may come of it, but no panic.
            takes(&bytes[..bytes.len() / 2]);
            let mut turned = bytes;
            if let Some(byte) = turned.get_mut(7) {
                *byte ^= 0x80;
            }
            takes(&turned);
        }
    }
}

/// The seeds that are made here are sound: a fuzzer that begins with errors finds little behind them.
#[test]
fn seeds_are_sound() {
    for (target, name, bytes) in made() {
        let text = || std::str::from_utf8(&bytes).unwrap();
        let sound = match target {
            "onnx" => model::onnx::from_bytes(&bytes, name, &Default::default()).is_ok(),
            "graph" => {
                postcard::from_bytes::<model::Model>(&bytes).is_ok_and(|g| g.validate().is_ok())
            }
            "token" => text().parse::<Token>().is_ok(),
            "register" => net::outside::register(&bytes).is_ok(),
            "arrays" => coordinator::outside::npy(&bytes).is_ok_and(|dims| dims == [1, 2]),
            "pictures" => {
                coordinator::outside::picture(&bytes, 1000, vision::Size::new(2, 2)).is_ok()
            }
            "messages" if name != "bundle" => postcard::from_bytes::<Message>(&bytes).is_ok(),
            _ => true,
        };
        assert!(sound, "{target}/{name}");
    }
}
