//! The rule, case by case: who comes in, and what the others are told.

use super::*;
use crate::Identity;

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

fn anybody() -> PeerId {
    Identity::ephemeral().peer_id()
}

fn terms(lifetime_s: u64) -> Terms {
    Terms { label: "kitchen".into(), lifetime_s: Some(lifetime_s) }
}

/// An invitation whose secret is its number.
fn invite(admission: &mut Admission, number: u8) -> Invitation {
    let drawn = (InvitationId(number.into()), Secret([number; 16]));
    admission.invite(drawn, &terms(DAY), NOW)
}

fn judge(
    admission: &Admission,
    peer: PeerId,
    shown: Option<&Invitation>,
    now: u64,
) -> Result<Standing, Refusal> {
    let proves = |secret: &[u8; 16]| shown.is_some_and(|i| i.secret.0 == *secret);
    admission.judge(&Claimant { peer, invitation: shown.map(|i| i.id), proves: &proves }, now)
}

fn join(admission: &mut Admission, peer: PeerId, shown: &Invitation) {
    let standing = judge(admission, peer, Some(shown), NOW).unwrap();
    assert!(admission.admit(peer, "pi", standing, NOW));
}

#[test]
fn strangers_are_told_what_is_wrong_with_what_they_show() {
    let mut admission = Admission::default();
    let stranger = anybody();
    let (open, revoked) = (invite(&mut admission, 1), invite(&mut admission, 2));
    admission.revoke(revoked.id).unwrap();
    let foreign = Invitation { id: InvitationId(9), ..open.clone() };
    let guessed = Invitation { secret: Secret([7; 16]), ..revoked.clone() };
    let verdict = |shown, now| judge(&admission, stranger, shown, now);
    assert_eq!(verdict(None, NOW), Err(Refusal::Uninvited));
    assert_eq!(verdict(Some(&foreign), NOW), Err(Refusal::Unknown));
    assert_eq!(
        verdict(Some(&guessed), NOW),
        Err(Refusal::Unknown),
        "it does not learn that it was revoked"
    );
    assert_eq!(verdict(Some(&revoked), NOW), Err(Refusal::Revoked(revoked.id)));
    assert_eq!(verdict(Some(&open), NOW + DAY), Err(Refusal::Expired(open.id)));
    assert_eq!(verdict(Some(&open), NOW + DAY - 1), Ok(Standing::Invited(open.id)));
}

#[test]
fn a_member_needs_nothing_but_its_identity() {
    let mut admission = Admission::default();
    let (member, open) = (anybody(), invite(&mut admission, 1));
    join(&mut admission, member, &open);
    admission.revoke(open.id).unwrap();
    for shown in [None, Some(&open)] {
        assert_eq!(judge(&admission, member, shown, NOW + 10 * DAY), Ok(Standing::Member));
    }
}

#[test]
fn a_removed_member_comes_back_with_a_later_invitation_alone() {
    let mut admission = Admission::default();
    let member = anybody();
    let (used, other) = (invite(&mut admission, 1), invite(&mut admission, 2));
    join(&mut admission, member, &used);
    let removed = admission.remove(&member, NOW).unwrap();
    assert_eq!(removed.ended, Some(used.id), "a new key would not help either");
    assert!(admission.remove(&member, NOW).is_none(), "only once");
    for shown in [None, Some(&used), Some(&other)] {
        assert_eq!(judge(&admission, member, shown, NOW), Err(Refusal::Removed));
    }
    // In the same second: the order counts, not the clock.
    let later = invite(&mut admission, 3);
    assert_eq!(judge(&admission, member, Some(&later), NOW + DAY), Err(Refusal::Expired(later.id)));
    join(&mut admission, member, &later);
    assert_eq!(judge(&admission, member, None, NOW), Ok(Standing::Member));
    assert_eq!(admission.members.len(), 1);
}

#[test]
fn a_visit_is_worth_writing_once_a_minute() {
    let mut admission = Admission::default();
    let (member, open) = (anybody(), invite(&mut admission, 1));
    join(&mut admission, member, &open);
    assert!(!admission.admit(member, "pi", Standing::Member, NOW + 59));
    assert!(admission.admit(member, "pi", Standing::Member, NOW + 60));
    assert!(admission.admit(member, "pi-4", Standing::Member, NOW + 61), "a new name");
    assert!(!admission.see(&[anybody()], NOW + 500));
    assert!(admission.see(&[member], NOW + 500));
    assert_eq!(admission.members[0].seen_unix_s, NOW + 500);
}

#[test]
fn what_is_kept_is_bounded() {
    let mut admission = Admission::default();
    let first = invite(&mut admission, 0);
    for number in 0..INVITATIONS_MAX as u32 {
        admission.invite((InvitationId(1000 + number), Secret([1; 16])), &terms(DAY), NOW);
    }
    assert_eq!(admission.invitations.len(), INVITATIONS_MAX);
    assert!(admission.invitations.iter().all(|i| i.id != first.id), "the oldest goes");
    let open = admission.invitations[0].clone();
    for _ in 0..MEMBERS_MAX {
        join(&mut admission, anybody(), &open);
    }
    let stranger = anybody();
    assert_eq!(judge(&admission, stranger, Some(&open), NOW), Err(Refusal::Full));
    // One that was removed makes room once nothing that it held is open.
    let gone = admission.members[0].peer;
    admission.remove(&gone, NOW).unwrap();
    admission.invitations.iter_mut().for_each(|i| i.revoked = true);
    let new = invite(&mut admission, 200);
    join(&mut admission, stranger, &new);
    assert_eq!(admission.members.len(), MEMBERS_MAX);
}

#[test]
fn names_cannot_move_the_cursor() {
    let mut admission = Admission::default();
    let (member, open) = (anybody(), invite(&mut admission, 1));
    let standing = Standing::Invited(open.id);
    admission.admit(member, &format!("a\x1b[2J\n{}", "x".repeat(500)), standing, NOW);
    let name = &admission.members[0].name;
    assert!(name.chars().count() == NAME_MAX && !name.contains('\x1b'), "{name:?}");
    admission.admit(anybody(), "\n", standing, NOW);
    assert_eq!(admission.members[1].name.len(), 8, "its PeerId's end stands for a name");
}

#[test]
fn an_invitation_is_named_by_eight_digits() {
    assert_eq!(InvitationId(0xab).to_string(), "000000ab");
    assert_eq!("000000ab".parse(), Ok(InvitationId(0xab)));
    for wrong in ["", "ab", "+00000ab", "000000ag", "000000abc"] {
        assert!(wrong.parse::<InvitationId>().is_err(), "{wrong}");
    }
}
