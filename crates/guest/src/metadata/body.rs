//! Bodies on their way through: never whole in memory, never without an end.

use std::{
    future::Future as _,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

/// Any error.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A response's body.
pub(super) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body that is there already.
pub(super) fn whole(content: impl Into<Bytes>) -> Body {
    Full::new(content.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Why a body didn't come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// It is larger than it may be.
    #[error("the body is too large")]
    TooLarge,
    /// It takes longer than it may.
    #[error("the body takes too long")]
    TooSlow,
    /// Its sender has gone, or doesn't speak HTTP.
    #[error("the body is not complete")]
    Broken,
}

/// What is allowed of a body.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience {
    /// All of it within this time.
    Whole(Duration),
    /// Each piece of it within this time.
    Piece(Duration),
}

/// A body that is passed on piece by piece, within limits. Trailers are left
/// out: they are of one connection only.
#[derive(Debug)]
pub(super) struct Guarded {
    inner: Incoming,
    left: u64,
    patience: Patience,
    timer: Pin<Box<Sleep>>,
    fault: Arc<OnceLock<Fault>>,
}

impl Guarded {
    /// Guards a body of at most `limit` bytes.
    pub(super) fn new(inner: Incoming, limit: u64, patience: Patience) -> Self {
        let (Patience::Whole(time) | Patience::Piece(time)) = patience;
        Self {
            inner,
            left: limit,
            patience,
            timer: Box::pin(sleep(time)),
            fault: Arc::default(),
        }
    }

    /// Where it will be said what was wrong with the body.
    pub(super) fn fault(&self) -> Arc<OnceLock<Fault>> {
        Arc::clone(&self.fault)
    }

    fn fail(&self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(Some(Err(self
            .fault
            .get_or_init(|| fault)
            .to_owned()
            .into())))
    }
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(_))) => return self.fail(Fault::Broken),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {
                return match self.timer.as_mut().poll(context) {
                    Poll::Ready(()) => self.fail(Fault::TooSlow),
                    Poll::Pending => Poll::Pending,
                };
            }
        };
        let Some(data) = frame.data_ref() else {
            return Poll::Ready(None);
        };
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        let Some(left) = self.left.checked_sub(length) else {
            return self.fail(Fault::TooLarge);
        };
        self.left = left;
        if let Patience::Piece(time) = self.patience {
            self.timer.as_mut().reset(Instant::now() + time);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
