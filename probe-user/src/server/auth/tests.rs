use std::time::Duration;

use super::*;

const COST: u32 = 6;

fn passwords() -> Passwords {
    let users = ["alice", "bob"].map(|user| {
        let hash = bcrypt::hash(format!("{user}'s"), COST).expect("the kernel has random numbers");
        (user.to_owned(), hash)
    });
    Passwords::new(users.into(), Arc::new(Checker::new()))
}

fn basic(user_and_password: &str) -> HeaderValue {
    let encoded = BASE64_STANDARD.encode(user_and_password);
    HeaderValue::from_str(&format!("Basic {encoded}")).expect("base64 is fit for a header")
}

#[tokio::test]
async fn who_knows_the_password_gets_in_and_nobody_else() {
    let passwords = passwords();
    let cases = [
        (Some(basic("alice:alice's")), Admission::Granted, "right"),
        (Some(basic("alice:alice's")), Admission::Granted, "right again"),
        (Some(basic("bob:bob's")), Admission::Granted, "the other one"),
        (Some(basic("alice:bob's")), Admission::Denied, "somebody else's password"),
        (Some(basic("bob:alice's")), Admission::Denied, "the reverse, while that one is known"),
        (Some(basic("mallory:alice's")), Admission::Denied, "a stranger with a right password"),
        (Some(basic("mallory:bob's")), Admission::Denied, "the same, against whichever hash stands in"),
        (Some(basic("alice:")), Admission::Denied, "none"),
        (Some(basic("alice")), Admission::Denied, "not even a colon"),
        (Some(HeaderValue::from_static("Basic !!!")), Admission::Denied, "no base64"),
        (Some(HeaderValue::from_static("Bearer YWxpY2U6YWxpY2Uncw==")), Admission::Denied, "another scheme"),
        (Some(HeaderValue::from_static("Basic")), Admission::Denied, "no credentials"),
        (None, Admission::Denied, "no header"),
    ];
    for (header, expected, why) in cases {
        assert_eq!(passwords.admit(header.as_ref()).await, expected, "{why}");
    }
}

#[tokio::test]
async fn a_right_password_is_checked_once_and_a_stranger_is_never_known() {
    let passwords = passwords();
    assert!(passwords.checker.known().is_empty());
    assert_eq!(passwords.admit(Some(&basic("alice:alice's"))).await, Admission::Granted);
    assert_eq!(passwords.checker.known().len(), 1);
    let tag = passwords.checker.known().iter().next().cloned().expect("there is one");
    assert_eq!(tag.len(), 32, "a hash and no password");
    passwords.admit(Some(&basic("alice:wrong"))).await;
    assert_eq!(passwords.checker.known().len(), 1, "wrong ones are not remembered");
    // bcrypt looks at 72 bytes, so many passwords are right for a long one.
    for number in 0..MAX_KNOWN + 10 {
        let tag = passwords.checker.tag(&[&number.to_le_bytes()]).expect("the kernel has random numbers");
        passwords.checker.known().insert(tag);
    }
    passwords.admit(Some(&basic("bob:bob's"))).await;
    assert_eq!(passwords.checker.known().len(), 1, "what is remembered is bounded");
}

#[tokio::test]
async fn a_flood_is_turned_away_and_who_is_known_gets_in() {
    let passwords = Arc::new(passwords());
    assert_eq!(passwords.admit(Some(&basic("alice:alice's"))).await, Admission::Granted);
    let flood: Vec<_> = (0..200)
        .map(|number| {
            let passwords = passwords.clone();
            tokio::spawn(async move { passwords.admit(Some(&basic(&format!("alice:{number}")))).await })
        })
        .collect();
    tokio::task::yield_now().await;
    let ended = || flood.iter().filter(|one| one.is_finished()).count();
    let before = ended();
    assert_eq!(passwords.admit(Some(&basic("alice:alice's"))).await, Admission::Granted);
    assert!(ended() == before && before < flood.len(), "she waited for none of the others");
    let mut answers = Vec::new();
    for one in flood {
        answers.push(one.await.expect("checking does not panic"));
    }
    let busy = answers.iter().filter(|answer| **answer == Admission::Busy).count();
    assert!(busy > 150, "{busy} of 200 are told that others wait");
    assert!(!answers.contains(&Admission::Granted));
    assert!(answers.contains(&Admission::Denied), "some are checked");
}

#[tokio::test]
async fn time_does_not_tell_which_users_there_are() {
    let passwords = passwords();
    let mut fastest = [Duration::MAX; 2];
    let mut apart = f64::MAX;
    // What disturbs a measurement only ever adds to it, so both come down to their own time: the same one. A hash of another cost
    // takes half the time or twice, at every round.
    for _ in 0..200 {
        for (fastest, user) in fastest.iter_mut().zip(["alice:wrong", "mallory:wrong"]) {
            let started = Instant::now();
            passwords.admit(Some(&basic(user))).await;
            let took = started.elapsed();
            *fastest = (*fastest).min(took);
            // It rests after a wrong one, for as long.
            tokio::time::sleep(took * 2).await;
        }
        let [known, unknown] = fastest.map(|fastest| fastest.as_secs_f64());
        apart = (known / unknown).max(unknown / known);
        if apart < 1.4 {
            return;
        }
    }
    panic!("{fastest:?} for a user and a stranger: {apart} times");
}
