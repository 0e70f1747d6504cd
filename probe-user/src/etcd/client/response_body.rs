//! Reads and decompresses the body of a response, within bounds.

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

use super::recv_low_water::{LowWater, WAIT_MAX};
use crate::etcd::error::{ConnectionStage, ScrapeError};

/// Limit of the body both as sent and as decompressed: ten times what etcd serves, 0.1 to 0.3 MB.
pub(super) const MAX_BODY_BYTES: usize = 4 << 20;

/// Number of bodies that are read concurrently: with 64 members on a node, all at once would take more memory
/// than the rest of the daemon.
const CONCURRENT_MAX: usize = 4;
static PERMITS: Semaphore = Semaphore::const_new(CONCURRENT_MAX);

/// After this time a body is read without a permit, so that an etcd that stalls in the middle of its response
/// does not block the scrapes of other members.
const PERMIT_TIMEOUT: Duration = Duration::from_millis(250);

/// Decoder of the received bytes. It decompresses them as they arrive, so that a decompression bomb is
/// detected at the bound and is never whole in memory.
enum Sink {
    Plain(BoundedBuffer),
    Gzip(Box<MultiGzDecoder<BoundedBuffer>>),
}

/// A buffer that rejects more than [`MAX_BODY_BYTES`].
#[derive(Default)]
struct BoundedBuffer(Vec<u8>);

/// The body exceeds its bound.
#[derive(Debug, thiserror::Error)]
#[error("more than {MAX_BODY_BYTES} bytes")]
struct BodyTooLarge;

impl Write for BoundedBuffer {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if self.0.len() + part.len() > MAX_BODY_BYTES {
            return Err(io::Error::other(BodyTooLarge));
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
            (None, _) => return Ok(Self::Plain(BoundedBuffer::default())),
            (Some(only), None) => only.to_str().unwrap_or_default().trim().to_ascii_lowercase(),
            _ => "more than one".to_owned(),
        };
        match &*encoding {
            "identity" => Ok(Self::Plain(BoundedBuffer::default())),
            // Accepted whether it was requested or not.
            "gzip" | "x-gzip" => Ok(Self::Gzip(Box::new(MultiGzDecoder::new(BoundedBuffer::default())))),
            other => {
                let other: String = other.chars().take(40).collect();
                Err(ScrapeError::NotMetrics(format!("its encoding `{other}` was not requested")))
            }
        }
    }

    fn take(&mut self, part: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(bytes) => bytes.write_all(part),
            Self::Gzip(decoder) => decoder.write_all(part),
        }
    }

    fn end(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain(bytes) => Ok(bytes.0),
            Self::Gzip(decoder) => decoder.finish().map(|bytes| bytes.0),
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
    let _permit = timeout(PERMIT_TIMEOUT, PERMITS.acquire()).await;
    // With many members, a body for which the daemon waits delays the next one: 64 scrapes took 230 ms
    // instead of 55.
    let is_alone = PERMITS.available_permits() + 1 == CONCURRENT_MAX;
    let mut body = response.into_body();
    let mut received = 0;
    let mut wait_over = pin!(sleep(WAIT_MAX));
    loop {
        let may_wait = is_alone && !wait_over.is_elapsed();
        if may_wait {
            low_water.await_rest(received);
        } else {
            low_water.await_any();
        }
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            () = &mut wait_over, if may_wait => continue,
        };
        let Some(frame) = frame else { break };
        let frame =
            frame.map_err(|error| ScrapeError::from_connection(error.into(), ConnectionStage::Body))?;
        // A frame without data is a trailer.
        let Ok(part) = frame.into_data() else { continue };
        received += part.len();
        // A compressed stream may also yield no bytes at all, endlessly.
        if received > MAX_BODY_BYTES {
            return Err(ScrapeError::TooLarge(MAX_BODY_BYTES));
        }
        sink.take(&part).map_err(|error| classify_error(&error))?;
    }
    low_water.end(received);
    sink.end().map_err(|error| classify_error(&error))
}

fn classify_error(error: &io::Error) -> ScrapeError {
    if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<BodyTooLarge>) {
        return ScrapeError::TooLarge(MAX_BODY_BYTES);
    }
    ScrapeError::NotMetrics(format!("its gzip encoding is invalid: {error}"))
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

    fn decompress(bytes: &[u8]) -> Result<Vec<u8>, ScrapeError> {
        let mut sink = Sink::Gzip(Box::new(MultiGzDecoder::new(BoundedBuffer::default())));
        bytes
            .chunks(1000)
            .try_for_each(|part| sink.take(part))
            .and_then(|()| sink.end())
            .map_err(|error| classify_error(&error))
    }

    #[test]
    fn gzip_is_decompressed_within_bounds() {
        let zeros = |count: usize| vec![b'0'; count];
        assert_eq!(decompress(&gzip(b"up 1\n")).unwrap(), b"up 1\n");
        assert_eq!(decompress(&gzip(&zeros(MAX_BODY_BYTES))).unwrap().len(), MAX_BODY_BYTES);
        let bomb = gzip(&zeros(20 * MAX_BODY_BYTES));
        assert!(bomb.len() < MAX_BODY_BYTES / 8, "twenty times the bound in {} bytes", bomb.len());
        assert!(matches!(decompress(&bomb), Err(ScrapeError::TooLarge(_))));
        let whole = gzip(b"up 1\n");
        for (broken, why) in
            [(&whole[..whole.len() - 4], "truncated"), (&b"up 1\n"[..], "not gzip"), (&[][..], "empty")]
        {
            let error = decompress(broken).expect_err(why);
            assert!(matches!(error, ScrapeError::NotMetrics(_)), "{why}: {error}");
        }
    }
}
