//! One request of one guest: who asks, and what the answer is.

use std::{net::IpAddr, sync::Arc, time::Instant};

use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use hyper::body::Incoming;
use l2isolate_model::{IfName, metadata::entry::Entry};
use ring::rand::{SecureRandom as _, SystemRandom};
use tracing::{debug, warn};

use super::{
    body::{Body, whole},
    caller, local,
    map::Map,
    throttle::Throttle,
    upstream::{Refusal, Upstreams},
};

/// Bytes of randomness that a guest gets, as many as from Nova.
const SEED: usize = 512;

/// Where answers come from.
pub(super) enum Answers {
    /// From the port's intent.
    Intent,
    /// From servers behind.
    Servers(Box<Upstreams>),
}

/// A tap, as a connection knows it.
#[derive(Debug)]
pub(super) struct Tap {
    pub(super) name: IfName,
    pub(super) index: u32,
    /// Lines in the log about its guest's requests.
    pub(super) log: Throttle,
}

/// What answers guests.
pub(super) struct Proxy {
    pub(super) answers: Answers,
    pub(super) map: Map,
}

impl Proxy {
    /// Answers the guest on `tap` that asks from `peer`.
    pub(super) async fn answer(
        &self,
        tap: &Tap,
        peer: IpAddr,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let Some(entry) = self.map.get(tap.name, tap.index) else {
            return plain(StatusCode::NOT_FOUND, "this port is not known any more");
        };
        let Some(address) = caller::address(&entry, peer) else {
            let port = entry.port.as_str();
            if let Some(held) = tap.log.pass(Instant::now()) {
                warn!(port, tap = %tap.name, %peer, held, "asks for metadata from an address that is not its own");
            }
            return plain(
                StatusCode::FORBIDDEN,
                "this address is not one of the port's own",
            );
        };
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        if method == Method::CONNECT || !path.starts_with('/') {
            return plain(StatusCode::BAD_REQUEST, "there is nothing but paths here");
        }
        let answer = match &self.answers {
            Answers::Intent => self.tell(Arc::clone(&entry), &method, &path),
            Answers::Servers(servers) => {
                let answer = servers.forward(&entry, address, request).await;
                answer.unwrap_or_else(|refusal| refused(tap, &entry, &refusal))
            }
        };
        let (port, status) = (entry.port.as_str(), answer.status().as_u16());
        debug!(port, tap = %tap.name, %peer, %method, path, status, "metadata");
        answer
    }

    fn tell(&self, own: Arc<Entry>, method: &Method, path: &str) -> Response<Body> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut answer = plain(
                StatusCode::METHOD_NOT_ALLOWED,
                "there is nothing to write here",
            );
            let allow = HeaderValue::from_static("GET, HEAD");
            answer.headers_mut().insert(ALLOW, allow);
            return answer;
        }
        let mut seed = [0; SEED];
        // It fails only where the kernel has no randomness at all.
        let seed = SystemRandom::new().fill(&mut seed).map(|()| &seed[..]);
        let instance = self.map.instance(own);
        match local::document(&instance, path, seed.unwrap_or_default()) {
            Some(document) => {
                let mut answer = Response::new(whole(document.content));
                let kind = HeaderValue::from_static(document.kind);
                answer.headers_mut().insert(CONTENT_TYPE, kind);
                answer
            }
            None => plain(StatusCode::NOT_FOUND, "there is nothing at this path"),
        }
    }
}

fn refused(tap: &Tap, entry: &Entry, refusal: &Refusal) -> Response<Body> {
    let (port, status, reason) = (
        entry.port.as_str(),
        refusal.status.as_u16(),
        refusal.reason.as_str(),
    );
    if refusal.own {
        debug!(port, tap = %tap.name, status, reason, "the guest's request is refused");
    } else if let Some(held) = tap.log.pass(Instant::now()) {
        warn!(port, tap = %tap.name, status, reason, held, "the guest gets no metadata");
    }
    let words = match refusal.status {
        StatusCode::BAD_GATEWAY => "the metadata service does not answer",
        StatusCode::GATEWAY_TIMEOUT => "the metadata service does not answer in time",
        StatusCode::NOT_FOUND => "there is no metadata for this port",
        _ => "the request can not be passed on",
    };
    plain(refusal.status, words)
}

fn plain(status: StatusCode, words: &str) -> Response<Body> {
    let mut answer = Response::new(whole(format!("{words}\n")));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}
