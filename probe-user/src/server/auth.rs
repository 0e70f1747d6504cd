//! Who may ask: basic authentication against bcrypt hashes.
//!
//! A hash of cost 10 takes 50 ms and more, so it is checked on a thread of its own, one at a time, which rests after a wrong one
//! and is the last to get a processor: a flood of wrong passwords delays neither the daemon nor etcd. What was right once is
//! known again by a keyed hash, so that a scraper pays once.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Instant,
};

use axum::http::HeaderValue;
use base64::{Engine, prelude::BASE64_STANDARD};
use ring::{hmac, rand::SystemRandom};
use rustix::process::setpriority_process;
use tokio::sync::oneshot;

/// How many passwords may wait to be checked; more are turned away.
const MAX_WAITING: usize = 8;

/// How many right ones are remembered.
const MAX_KNOWN: usize = 256;

/// The lowest priority there is (`setpriority(2)`); for a thread of Linux it is its own.
const LAST: i32 = 19;

/// What a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Granted,
    Denied,
    /// Too many wait to be checked.
    Busy,
}

/// Checks passwords, and remembers those that were right.
pub struct Checker {
    /// None where the kernel has no random numbers; then nothing is remembered.
    key: Option<hmac::Key>,
    known: Mutex<HashSet<Vec<u8>>>,
    thread: OnceLock<Option<SyncSender<Job>>>,
}

/// One password to be checked.
struct Job {
    hash: String,
    password: Vec<u8>,
    answer: oneshot::Sender<bool>,
}

/// The users of one configuration.
pub struct Passwords {
    users: BTreeMap<String, String>,
    checker: Arc<Checker>,
}

impl Passwords {
    /// Takes the hash of every user's password; there has to be one user.
    pub fn new(users: BTreeMap<String, String>, checker: Arc<Checker>) -> Self {
        Self { users, checker }
    }

    /// Judges the `Authorization` header of a request.
    pub async fn admit(&self, header: Option<&HeaderValue>) -> Admission {
        let Some((user, password)) = header.and_then(|header| credentials(header.as_bytes())) else {
            return Admission::Denied;
        };
        let stored = self.users.get(&user);
        // For somebody unknown it takes as long: against somebody else's hash, always the same, for names differ in what it costs.
        let Some(hash) = stored.or_else(|| self.stand_in(&user)) else { return Admission::Denied };
        match self.checker.check(&user, hash, password).await {
            Some(true) if stored.is_some() => Admission::Granted,
            Some(_) => Admission::Denied,
            None => Admission::Busy,
        }
    }

    fn stand_in(&self, user: &str) -> Option<&String> {
        let number = self.checker.tag(&[user.as_bytes()]).map_or(0, |tag| usize::from(tag[0]));
        self.users.values().nth(number % self.users.len().max(1))
    }
}

impl Checker {
    pub fn new() -> Self {
        Self {
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok(),
            known: Mutex::default(),
            thread: OnceLock::new(),
        }
    }

    /// Returns whether a password is right, or none if too many others are being checked.
    async fn check(&self, user: &str, hash: &str, password: Vec<u8>) -> Option<bool> {
        let tag = self.tag(&[user.as_bytes(), hash.as_bytes(), &password]);
        if tag.as_ref().is_some_and(|tag| self.known().contains(tag)) {
            return Some(true);
        }
        let (answer, told) = oneshot::channel();
        let job = Job { hash: hash.to_owned(), password, answer };
        // Not before it is needed: threads inherit capabilities, and this needs none.
        match self.thread.get_or_init(start).as_ref()?.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return None,
        }
        let right = told.await.ok()?;
        if let Some(tag) = tag.filter(|_| right) {
            let mut known = self.known();
            if known.len() >= MAX_KNOWN {
                known.clear();
            }
            known.insert(tag);
        }
        Some(right)
    }

    /// Returns what these are known by within this process; each part has its length before it, so that none runs into the next.
    fn tag(&self, parts: &[&[u8]]) -> Option<Vec<u8>> {
        let mut context = hmac::Context::with_key(self.key.as_ref()?);
        for part in parts {
            context.update(&part.len().to_le_bytes());
            context.update(part);
        }
        Some(context.sign().as_ref().to_vec())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashSet<Vec<u8>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn start() -> Option<SyncSender<Job>> {
    let (sender, jobs) = sync_channel(MAX_WAITING);
    let builder = thread::Builder::new().name("passwords".to_owned()).stack_size(256 << 10);
    let spawned = builder.spawn(move || check_one_by_one(&jobs));
    spawned.inspect_err(|error| tracing::warn!(%error, "cannot start a thread to check passwords")).ok()?;
    Some(sender)
}

fn check_one_by_one(jobs: &Receiver<Job>) {
    let _ = setpriority_process(None, LAST); // It does its work without, too.
    for job in jobs {
        if job.answer.is_closed() {
            continue; // The client is gone.
        }
        let started = Instant::now();
        let right = bcrypt::verify(&job.password, &job.hash).unwrap_or(false);
        let _ = job.answer.send(right); // The client may be gone by now.
        if !right {
            // Half a processor at most.
            thread::sleep(started.elapsed());
        }
    }
}

/// Reads `Basic base64(user:password)` (RFC 7617).
pub fn credentials(header: &[u8]) -> Option<(String, Vec<u8>)> {
    let (scheme, encoded) = std::str::from_utf8(header).ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let user = String::from_utf8(decoded[..colon].to_vec()).ok()?;
    Some((user, decoded[colon + 1..].to_vec()))
}

#[cfg(test)]
mod tests;
