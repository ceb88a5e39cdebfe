//! The way to the coordinator: the token, its addresses one by one, and what the coordinator says.

use super::Check;
use crate::membership::{ask, kept, token_file};
use net::{Answer, Intent, Multiaddr, Token, is_loopback};
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long an address may take; what answers at all answers in this time.
const DIAL: Duration = Duration::from_secs(3);

/// How long to look for the coordinator, by mDNS too.
const ASK: Duration = Duration::from_secs(5);

/// Beyond this the coordinator's clock and ours tell different stories in logs.
const CLOCKS_APART_S: u64 = 300;

const INVITE: &str = "print a token with `tilehive cluster token` on the coordinator, then run \
                      `tilehive-worker join TOKEN` here";

/// Checks the token that was given or is kept, and follows it.
pub(crate) async fn reach(
    state: &Path,
    given: Option<Token>,
    (name, mdns): (&str, bool),
) -> Vec<Check> {
    let token = match given.map_or_else(|| kept(state), |token| Ok(Some(token))) {
        Ok(Some(token)) => token,
        Ok(None) => {
            let finding = format!("none is kept in {}", token_file(state).display());
            return vec![Check::failed("token", finding, INVITE)];
        }
        Err(error) => return vec![Check::failed("token", format!("{error:#}"), INVITE)],
    };
    let mut checks = vec![describe(&token, net::now_unix_s())];
    let dialled = dial_all(&token.addresses);
    let asked = ask(state, &token, (name, mdns), Intent::Ask, ASK);
    let (dialled, asked) = tokio::join!(dialled, asked);
    let answer = match asked {
        Ok(answer) => answer,
        Err(error) => {
            let cure = "see the checks of key and network above";
            checks.push(Check::failed("coordinator", format!("{error:#}"), cure));
            return checks;
        }
    };
    let found = matches!(answer, Answer::Admitted { .. } | Answer::Refused(_));
    checks.extend(dialled.into_iter().map(|(address, failure)| judge(&address, failure, found)));
    checks.extend(verdict(&token, answer, net::now_unix_s()));
    checks
}

fn describe(token: &Token, now_unix_s: u64) -> Check {
    let finding = format!("invitation {} to {}", token.invitation, token.coordinator);
    match token.expires_unix_s {
        Some(end) if end <= now_unix_s => Check::warning(
            "token",
            format!("{finding}: expired"),
            format!("nothing, if this device is a member (see below); else {INVITE}"),
        ),
        Some(end) => {
            let left =
                humantime::format_duration(Duration::from_secs((end - now_unix_s) / 60 * 60));
            Check::ok("token", format!("{finding}: open for {left}"))
        }
        None => Check::ok("token", format!("{finding}: open until it is revoked")),
    }
}

/// Why an address could not be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Refused,
    TimedOut,
    NoRoute,
    Other(ErrorKind),
}

async fn dial_all(addresses: &[Multiaddr]) -> Vec<(Multiaddr, Option<Failure>)> {
    // An address of this machine is of no use on another one, unless there is no other.
    let (near, far): (Vec<_>, Vec<_>) = addresses.iter().cloned().partition(is_loopback);
    let addresses = if far.is_empty() { near } else { far };
    let dialling = addresses.into_iter().map(|address| {
        tokio::spawn(async move {
            let failure = dial(&address).await.err();
            (address, failure)
        })
    });
    let mut dialled = Vec::new();
    for one in dialling.collect::<Vec<_>>() {
        dialled.extend(one.await);
    }
    dialled
}

async fn dial(address: &Multiaddr) -> Result<(), Failure> {
    let Some(socket) = net::socket_address(address) else {
        return Err(Failure::Other(ErrorKind::Unsupported));
    };
    match tokio::time::timeout(DIAL, TcpStream::connect(socket)).await {
        Err(_) => Err(Failure::TimedOut),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(match error.kind() {
            ErrorKind::ConnectionRefused => Failure::Refused,
            ErrorKind::TimedOut => Failure::TimedOut,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Failure::NoRoute,
            kind => Failure::Other(kind),
        }),
    }
}

fn judge(address: &Multiaddr, failure: Option<Failure>, found: bool) -> Check {
    let Some(failure) = failure else {
        return Check::ok("address", format!("{address} answers"));
    };
    let (what, cure) = match failure {
        Failure::Refused => (
            "refused: the machine is there, and nothing listens on that port".to_owned(),
            "run `tilehive devices` on the coordinator, or `tilehive doctor` if that does",
        ),
        Failure::TimedOut => (
            "timed out".to_owned(),
            "is the coordinator on, and in this network? Its firewall must let that port in",
        ),
        Failure::NoRoute => (
            "no route: this device is not in that network".to_owned(),
            "join the coordinator's network, or print a token with an address of this one",
        ),
        Failure::Other(kind) => (kind.to_string(), "print a new token on the coordinator"),
    };
    let finding = format!("{address}: {what}");
    match found {
        true => Check::warning("address", finding, "nothing: another address answers"),
        false => Check::failed("address", finding, cure),
    }
}

fn verdict(token: &Token, answer: Answer, now_unix_s: u64) -> Vec<Check> {
    let name = "coordinator";
    match answer {
        Answer::Admitted { unix_s } => {
            let mut checks = vec![Check::ok(name, "it lets this device in")];
            let apart = unix_s.abs_diff(now_unix_s);
            if apart > CLOCKS_APART_S {
                let apart = humantime::format_duration(Duration::from_secs(apart));
                checks.push(Check::warning(
                    "clocks",
                    format!("the coordinator's and this one are {apart} apart"),
                    "connect both to a time server (timedatectl set-ntp true)",
                ));
            }
            checks
        }
        Answer::Refused(refused) => vec![Check::failed(name, refused.reason, refused.cure)],
        Answer::Impostor(address, peer) => vec![Check::failed(
            name,
            format!("at {address} answers {peer}, and the token is of {}", token.coordinator),
            INVITE,
        )],
        Answer::Nobody(reason) => vec![Check::failed(
            name,
            format!("it does not answer ({reason})"),
            "run `tilehive devices --join-wait 10min` on the coordinator, and ask again",
        )],
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use net::{Identity, Register, Terms};

    fn token(lifetime_s: Option<u64>) -> Token {
        let terms = Terms { label: String::new(), lifetime_s };
        let invitation = Register::in_memory().invite(&terms).unwrap();
        Token::new(Identity::ephemeral().peer_id(), Vec::new(), &invitation)
    }

    #[tokio::test]
    async fn an_address_fails_in_its_own_way() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = |text: String| text.parse::<Multiaddr>().unwrap();
        let here = address(format!("/ip4/127.0.0.1/tcp/{port}"));
        assert_eq!(dial(&here).await, Ok(()));
        drop(listener);
        assert_eq!(dial(&here).await, Err(Failure::Refused));
        let odd = address("/dns4/example.invalid/tcp/1".into());
        assert_eq!(dial(&odd).await, Err(Failure::Other(ErrorKind::Unsupported)));
        for failure in [Failure::Refused, Failure::TimedOut, Failure::NoRoute] {
            assert_eq!(judge(&here, Some(failure), false).verdict, Verdict::Failed);
            assert_eq!(judge(&here, Some(failure), true).verdict, Verdict::Warning);
        }
        // Loopback is of interest where there is nothing else.
        let far = address("/ip4/192.0.2.1/udp/1".into());
        let dialled = dial_all(&[here.clone(), far.clone()]).await;
        assert_eq!(dialled.len(), 1);
        assert_eq!(dialled[0].0, far);
        assert_eq!(dial_all(std::slice::from_ref(&here)).await[0].0, here);
    }

    #[test]
    fn expiry_is_a_warning_since_a_member_needs_no_token() {
        let now = net::now_unix_s();
        assert_eq!(describe(&token(Some(0)), now + 1).verdict, Verdict::Warning);
        assert!(describe(&token(Some(7200)), now).finding.contains("open for"));
        assert!(describe(&token(None), now).finding.contains("revoked"));
    }

    #[test]
    fn clocks_far_apart_are_told() {
        let (token, now) = (token(None), 2_000_000_000);
        let at = |unix_s| verdict(&token, Answer::Admitted { unix_s }, now);
        assert_eq!(at(now - 300).len(), 1);
        assert!(at(now - 7200)[1].finding.contains("2h"));
        let nobody = verdict(&token, Answer::Nobody("refused".into()), now);
        assert_eq!(nobody[0].verdict, Verdict::Failed);
    }
}
