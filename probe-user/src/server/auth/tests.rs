use std::time::Duration;

use super::*;

const COST: u32 = 6;

fn passwords() -> Passwords {
    let users = ["alice", "bob"].map(|user| {
        let hash = bcrypt::hash(format!("{user}'s"), COST).expect("the kernel has random numbers");
        (user.to_owned(), hash)
    });
    Passwords::new(users.into(), Arc::new(PasswordChecker::new()))
}

fn basic(user_and_password: &str) -> HeaderValue {
    let encoded = BASE64_STANDARD.encode(user_and_password);
    HeaderValue::from_str(&format!("Basic {encoded}")).expect("base64 is valid in a header")
}

#[tokio::test]
async fn only_the_correct_password_is_granted() {
    let passwords = passwords();
    let cases = [
        (Some(basic("alice:alice's")), Admission::Granted, "right"),
        (Some(basic("alice:alice's")), Admission::Granted, "right again"),
        (Some(basic("bob:bob's")), Admission::Granted, "the other user"),
        (Some(basic("alice:bob's")), Admission::Denied, "another user's password"),
        (Some(basic("bob:alice's")), Admission::Denied, "the reverse, while that password is cached"),
        (Some(basic("mallory:alice's")), Admission::Denied, "an unknown user with a valid password"),
        (Some(basic("mallory:bob's")), Admission::Denied, "the same, with either decoy hash"),
        (Some(basic("alice:")), Admission::Denied, "none"),
        (Some(basic("alice")), Admission::Denied, "no colon"),
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
async fn a_correct_password_is_verified_once_and_a_wrong_one_is_never_cached() {
    let passwords = passwords();
    assert!(passwords.checker.verified().is_empty());
    assert_eq!(passwords.admit(Some(&basic("alice:alice's"))).await, Admission::Granted);
    assert_eq!(passwords.checker.verified().len(), 1);
    let tag = passwords.checker.verified().iter().next().cloned().expect("there is one");
    assert_eq!(tag.len(), 32, "a hash, not the password");
    passwords.admit(Some(&basic("alice:wrong"))).await;
    assert_eq!(passwords.checker.verified().len(), 1, "wrong passwords are not cached");
    // bcrypt uses the first 72 bytes, so many passwords match a long one.
    for number in 0..MAX_VERIFIED + 10 {
        let tag = passwords.checker.tag(&[&number.to_le_bytes()]).expect("the kernel has random numbers");
        passwords.checker.verified().insert(tag);
    }
    passwords.admit(Some(&basic("bob:bob's"))).await;
    assert_eq!(passwords.checker.verified().len(), 1, "the cache is bounded");
}

#[tokio::test]
async fn a_flood_is_rejected_and_a_cached_password_is_granted() {
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
    assert!(ended() == before && before < flood.len(), "a cached password waits for no other");
    let mut answers = Vec::new();
    for one in flood {
        answers.push(one.await.expect("checking does not panic"));
    }
    let busy = answers.iter().filter(|answer| **answer == Admission::Busy).count();
    assert!(busy > 150, "{busy} of 200 were rejected as busy");
    assert!(!answers.contains(&Admission::Granted));
    assert!(answers.contains(&Admission::Denied), "some are verified");
}

#[tokio::test]
async fn timing_does_not_reveal_the_users() {
    let passwords = passwords();
    let mut fastest = [Duration::MAX; 2];
    let mut apart = f64::MAX;
    // Interference only adds time, so the minimum of each converges to its true duration, which is the same.
    // A hash of another cost would take half or twice the time in every round.
    for _ in 0..200 {
        for (fastest, user) in fastest.iter_mut().zip(["alice:wrong", "mallory:wrong"]) {
            let started = Instant::now();
            passwords.admit(Some(&basic(user))).await;
            let took = started.elapsed();
            *fastest = (*fastest).min(took);
            // The thread pauses after a wrong password, for the same time.
            tokio::time::sleep(took * 2).await;
        }
        let [known, unknown] = fastest.map(|fastest| fastest.as_secs_f64());
        apart = (known / unknown).max(unknown / known);
        if apart < 1.4 {
            return;
        }
    }
    panic!("{fastest:?} for a known and an unknown user: factor {apart}");
}
