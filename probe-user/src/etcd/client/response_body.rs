//! Reads the body of an answer, and inflates it, within bounds.

use std::{
    io::{self, Write},
    pin::pin,
    time::Duration,
};

use flate2::write::MultiGzDecoder;
use http_body_util::BodyExt;
use hyper::{Response, body::Incoming, header::CONTENT_ENCODING};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::recv_low_water::{LowWater, PATIENCE};
use crate::etcd::error::{ScrapeError, Stage};

/// Ten times what etcd serves, 0.1 to 0.3 MB; of what is sent as of what it inflates to.
pub(super) const MAX_BODY_BYTES: usize = 4 << 20;

/// So many bodies are read at once: with 64 etcds on a node, all at once would take more memory than everything else.
const AT_ONCE: usize = 4;
static TURNS: Semaphore = Semaphore::const_new(AT_ONCE);

/// Who waits longer for its turn reads without one: an etcd that stalls in the middle of its answer holds up nobody.
const TURN_LIMIT: Duration = Duration::from_millis(250);

/// What the bytes that arrive go through. Inflated as they arrive, so that a bomb goes off at the bound, and never whole in
/// memory.
enum Sink {
    Plain(Bounded),
    Gzip(Box<MultiGzDecoder<Bounded>>),
}

/// Takes so many bytes and no more.
#[derive(Default)]
struct Bounded(Vec<u8>);

/// More bytes than fit.
#[derive(Debug, thiserror::Error)]
#[error("more than {MAX_BODY_BYTES} bytes")]
struct Full;

impl Write for Bounded {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if self.0.len() + part.len() > MAX_BODY_BYTES {
            return Err(io::Error::other(Full));
        }
        self.0.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn new(response: &Response<Incoming>) -> Result<Self, ScrapeError> {
        let mut encodings = response.headers().get_all(CONTENT_ENCODING).iter();
        let encoding = match (encodings.next(), encodings.next()) {
            (None, _) => return Ok(Self::Plain(Bounded::default())),
            (Some(only), None) => only.to_str().unwrap_or_default().trim().to_ascii_lowercase(),
            _ => "more than one".to_owned(),
        };
        match &*encoding {
            "identity" => Ok(Self::Plain(Bounded::default())),
            // Whether we asked for it or not.
            "gzip" | "x-gzip" => Ok(Self::Gzip(Box::new(MultiGzDecoder::new(Bounded::default())))),
            other => {
                let other: String = other.chars().take(40).collect();
                Err(ScrapeError::NotMetrics(format!("its encoding is `{other}`, which nobody asked for")))
            }
        }
    }

    fn take(&mut self, part: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(bytes) => bytes.write_all(part),
            Self::Gzip(inflating) => inflating.write_all(part),
        }
    }

    fn end(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain(bytes) => Ok(bytes.0),
            Self::Gzip(inflating) => inflating.finish().map(|bytes| bytes.0),
        }
    }
}

/// Returns the whole body.
///
/// # Errors
///
/// When it is too large, breaks off, or is in an encoding other than gzip.
pub(super) async fn read(
    response: Response<Incoming>,
    low_water: &mut LowWater,
) -> Result<Vec<u8>, ScrapeError> {
    let mut sink = Sink::new(&response)?;
    let _turn = timeout(TURN_LIMIT, TURNS.acquire()).await;
    // Among many, one that is waited for holds up the next: 64 took 230 ms in place of 55.
    let is_alone = TURNS.available_permits() + 1 == AT_ONCE;
    let mut body = response.into_body();
    let mut received = 0;
    let mut late = pin!(sleep(PATIENCE));
    loop {
        let has_patience = is_alone && !late.is_elapsed();
        if has_patience {
            low_water.await_rest(received);
        } else {
            low_water.await_anything();
        }
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            () = &mut late, if has_patience => continue,
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| ScrapeError::from_connection(error.into(), Stage::Body))?;
        // What is no data is a trailer.
        let Ok(part) = frame.into_data() else { continue };
        received += part.len();
        // An encoding may also inflate to nothing, for ever.
        if received > MAX_BODY_BYTES {
            return Err(ScrapeError::TooLarge(MAX_BODY_BYTES));
        }
        sink.take(&part).map_err(|error| unreadable(&error))?;
    }
    low_water.end(received);
    sink.end().map_err(|error| unreadable(&error))
}

fn unreadable(error: &io::Error) -> ScrapeError {
    if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Full>) {
        return ScrapeError::TooLarge(MAX_BODY_BYTES);
    }
    ScrapeError::NotMetrics(format!("its gzip encoding is broken: {error}"))
}

#[cfg(test)]
mod tests {
    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn inflate(bytes: &[u8]) -> Result<Vec<u8>, ScrapeError> {
        let mut sink = Sink::Gzip(Box::new(MultiGzDecoder::new(Bounded::default())));
        bytes
            .chunks(1000)
            .try_for_each(|part| sink.take(part))
            .and_then(|()| sink.end())
            .map_err(|error| unreadable(&error))
    }

    #[test]
    fn what_is_sent_as_gzip_is_inflated_within_bounds() {
        let zeros = |count: usize| vec![b'0'; count];
        assert_eq!(inflate(&gzip(b"up 1\n")).unwrap(), b"up 1\n");
        assert_eq!(inflate(&gzip(&zeros(MAX_BODY_BYTES))).unwrap().len(), MAX_BODY_BYTES);
        let bomb = gzip(&zeros(20 * MAX_BODY_BYTES));
        assert!(bomb.len() < MAX_BODY_BYTES / 8, "twenty times the bound in {} bytes", bomb.len());
        assert!(matches!(inflate(&bomb), Err(ScrapeError::TooLarge(_))));
        let whole = gzip(b"up 1\n");
        for (broken, why) in [
            (&whole[..whole.len() - 4], "cut short"),
            (&b"up 1\n"[..], "not gzip at all"),
            (&[][..], "nothing"),
        ] {
            let error = inflate(broken).expect_err(why);
            assert!(matches!(error, ScrapeError::NotMetrics(_)), "{why}: {error}");
        }
    }
}
