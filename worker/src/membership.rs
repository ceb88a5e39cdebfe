//! The token that a worker keeps, so that it joins by itself from then on; `tilehive-worker join`
//! and `leave`.

use anyhow::{Context, Result};
use net::{Answer, Identity, Intent, NetConfig, Refused, Role, Token, write_private};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long to look for the coordinator: longer than a question by mDNS takes to be answered.
const PATIENCE: Duration = Duration::from_secs(6);

/// The file of a worker's key.
pub fn key_file(state: &Path) -> PathBuf {
    state.join("worker.key")
}

/// The file of the token that a worker keeps.
pub fn token_file(state: &Path) -> PathBuf {
    state.join("worker.token")
}

/// The token that is kept; none where there is no file.
///
/// *Errors*: a file that cannot be read or is no token.
pub fn kept(state: &Path) -> Result<Option<Token>> {
    let path = token_file(state);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
    };
    let token = text.parse::<Token>();
    token.map(Some).with_context(|| {
        format!("{} is damaged; join again with a new token, or leave", path.display())
    })
}

/// What came of joining.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joined {
    /// The coordinator admitted this device, and the token is kept.
    Admitted,
    /// Nobody answered, for this reason; the token is kept.
    Later(String),
    /// The coordinator refuses it, or another program answers; nothing is kept.
    Refused(Refused),
}

/// Shows a token to its coordinator, and keeps it unless it is refused.
///
/// *Errors*: files that cannot be used, no network at all.
pub async fn join(state: &Path, token: &Token, name: &str, mdns: bool) -> Result<Joined> {
    let answer = ask(state, token, (name, mdns), Intent::Enrol, PATIENCE).await?;
    let joined = match answer {
        Answer::Admitted { .. } => Joined::Admitted,
        Answer::Nobody(reason) => Joined::Later(reason),
        Answer::Refused(refused) => return Ok(Joined::Refused(refused)),
        Answer::Impostor(address, peer) => {
            return Ok(Joined::Refused(Refused {
                reason: format!(
                    "at {address} answers {peer}, and the token is of {}",
                    token.coordinator
                ),
                cure: "print a new token on the coordinator that you mean, with \
                       `tilehive cluster token`"
                    .into(),
            }));
        }
    };
    let path = token_file(state);
    write_private(&path, format!("{token}\n").as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(joined)
}

/// Asks the coordinator of a token what it thinks of this device.
///
/// *Errors*: a key that cannot be used, no network at all.
pub(crate) async fn ask(
    state: &Path,
    token: &Token,
    (name, mdns): (&str, bool),
    intent: Intent,
    patience: Duration,
) -> Result<Answer> {
    let identity = match intent {
        // Who only asks leaves no trace: without a key it is judged as the newcomer that it is.
        Intent::Ask => Identity::load(&key_file(state))?.unwrap_or_else(Identity::ephemeral),
        _ => Identity::load_or_create(&key_file(state))?,
    };
    // Without discovery nobody has to be told where we are.
    let listen = if mdns { vec!["/ip4/0.0.0.0/tcp/0".parse()?] } else { Vec::new() };
    let mut config = NetConfig::new(identity, Role::Worker(token.clone()), listen);
    config.mdns = mdns;
    config.name = name.into();
    Ok(net::ask(config, intent, patience).await?)
}

/// Forgets the token that is kept; whether there was any. The key stays: it is the device's name.
///
/// *Errors*: the file cannot be deleted.
pub fn leave(state: &Path) -> Result<bool> {
    let path = token_file(state);
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot delete {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use net::{Register, Terms};

    #[tokio::test]
    async fn what_is_kept_is_private_and_can_be_forgotten() {
        let state = tempfile::tempdir().unwrap();
        assert!(kept(state.path()).unwrap().is_none());
        assert!(!leave(state.path()).unwrap());
        let invitation = Register::in_memory().invite(&Terms::default()).unwrap();
        // Nobody is there, and nowhere to look.
        let coordinator = Identity::ephemeral().peer_id();
        let token = Token::new(coordinator, Vec::new(), &invitation);
        let unkept = ask(state.path(), &token, ("pi", false), Intent::Ask, Duration::ZERO);
        assert!(matches!(unkept.await.unwrap(), Answer::Nobody(_)));
        let path = token_file(state.path());
        write_private(&path, format!("{token}\n").as_bytes()).unwrap();
        assert_eq!(kept(state.path()).unwrap(), Some(token));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        std::fs::write(&path, "tilehive2-cut").unwrap();
        let error = format!("{:#}", kept(state.path()).unwrap_err());
        assert!(error.contains("worker.token") && error.contains("join again"), "{error}");
        assert!(leave(state.path()).unwrap());
    }
}
