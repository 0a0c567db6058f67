//! The servers behind the proxy: Nova, or neutron-metadata-agent.

mod health;
mod server;
mod tls;

use std::{
    fmt::Write as _,
    net::IpAddr,
    sync::{
        OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri,
    header::{CONTENT_TYPE, HOST},
    request,
};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::{Body as _, Incoming};
use l2isolate_model::metadata::entry::Entry;
use ring::hmac;
use tracing::{info, warn};

use super::{
    Secret,
    body::{Body, Fault, Guarded, Patience},
    headers,
    limits::Limits,
};
use health::Health;
pub use server::Address;
use server::{Failure, Payload, Server};
pub use tls::{Tls, TlsError};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const INSTANCE: HeaderName = HeaderName::from_static("x-instance-id");
const SIGNATURE: HeaderName = HeaderName::from_static("x-instance-id-signature");
const TENANT: HeaderName = HeaderName::from_static("x-tenant-id");
const ROUTER: HeaderName = HeaderName::from_static("x-neutron-router-id");

/// A router that doesn't exist: neutron-metadata-agent then looks for the
/// address in all networks.
const NO_ROUTER: HeaderValue = HeaderValue::from_static("00000000-0000-0000-0000-000000000000");

/// neutron-metadata-agent reads a request by a single recv(2) of 4,096 bytes.
const NEUTRON_BODY: u64 = 2048;

/// Why a guest gets no answer from behind.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What the guest gets.
    pub(super) status: StatusCode,
    /// Words for an operator.
    pub(super) reason: String,
    /// The guest's own doing.
    pub(super) own: bool,
}

impl Refusal {
    fn own(status: StatusCode, reason: impl ToString) -> Self {
        Self {
            status,
            reason: reason.to_string(),
            own: true,
        }
    }

    fn of(fault: Fault) -> Self {
        let status = match fault {
            Fault::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Fault::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Fault::Broken => StatusCode::BAD_REQUEST,
        };
        Self::own(status, fault)
    }
}

/// How a server is told who asks.
enum Introduction {
    /// Nova's way: the instance, signed.
    Nova(hmac::Key),
    /// Neutron's: the address.
    Neutron,
}

/// The servers.
pub(super) struct Upstreams {
    servers: Vec<Server>,
    introduction: Introduction,
    limits: Limits,
    next: AtomicUsize,
}

impl Upstreams {
    /// Nova's metadata API at several places.
    ///
    /// # Errors
    /// An address can't be one, or a file of TLS can't be used.
    pub(super) fn nova(
        addresses: &[Address],
        tls: Option<&Tls>,
        secret: &Secret,
        limits: &Limits,
    ) -> Result<Self, super::Error> {
        let connector = tls.map(tls::connector).transpose()?;
        let servers = addresses
            .iter()
            .map(|address| Server::new(address.clone(), connector.clone()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(super::Error::Address)?;
        if servers.is_empty() {
            return Err(super::Error::Address(
                "nova_metadata_host names no server".to_owned(),
            ));
        }
        Ok(Self {
            servers,
            introduction: Introduction::Nova(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())),
            limits: limits.clone(),
            next: AtomicUsize::new(0),
        })
    }

    /// neutron-metadata-agent's socket.
    ///
    /// # Errors
    /// None: a path is always an address.
    pub(super) fn neutron(address: Address, limits: &Limits) -> Result<Self, super::Error> {
        let server = Server::new(address, None).map_err(super::Error::Address)?;
        Ok(Self {
            servers: vec![server],
            introduction: Introduction::Neutron,
            limits: limits.clone(),
            next: AtomicUsize::new(0),
        })
    }

    /// Passes a guest's request on, and gives back the answer. `address` is the
    /// guest's, as the cloud knows it.
    ///
    /// # Errors
    /// What the guest gets instead, and why.
    pub(super) async fn forward(
        &self,
        entry: &Entry,
        address: IpAddr,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let (mut parts, body) = request.into_parts();
        parts.headers = self.introduce(entry, address, parts.headers)?;
        let limit = match self.introduction {
            Introduction::Nova(_) => self.limits.body,
            Introduction::Neutron => self.limits.body.min(NEUTRON_BODY),
        };
        if body.size_hint().lower() > limit {
            return Err(Refusal::of(Fault::TooLarge));
        }
        let empty = body.is_end_stream();
        let body = Guarded::new(body, limit, Patience::Whole(self.limits.body_time));
        let fault = body.fault();
        let payload = match self.introduction {
            _ if empty => Either::Right(Full::default()),
            Introduction::Nova(_) => Either::Left(body),
            Introduction::Neutron => {
                let body = body.collect().await;
                let refused = |_| Refusal::of(fault.get().copied().unwrap_or(Fault::Broken));
                Either::Right(Full::new(body.map_err(refused)?.to_bytes()))
            }
        };
        let answer = self.ask(&parts, payload, empty, &fault).await?;
        let (mut head, body) = answer.into_parts();
        head.headers = headers::of_response(head.headers);
        let patience = Patience::Piece(self.limits.answer_time);
        let body = Guarded::new(body, u64::MAX, patience).boxed_unsync();
        Ok(Response::from_parts(head, body))
    }

    /// Asks one server after the other. A request is said to a second one only
    /// if the first has seen nothing of it, or if it may be said twice.
    async fn ask(
        &self,
        parts: &request::Parts,
        payload: Payload,
        empty: bool,
        fault: &OnceLock<Fault>,
    ) -> Result<Response<Incoming>, Refusal> {
        // RFC 9110, 9.2.2.
        let repeatable = empty && parts.method.is_idempotent();
        let time = if empty {
            self.limits.answer_time
        } else {
            self.limits.answer_time + self.limits.body_time
        };
        let mut order = self.order();
        if let [only] = order.as_slice() {
            order.push(*only);
        }
        let mut payload = Some(payload);
        let mut refusal = Refusal {
            status: StatusCode::BAD_GATEWAY,
            reason: "there is no server".to_owned(),
            own: false,
        };
        for server in order
            .into_iter()
            .filter_map(|place| self.servers.get(place))
        {
            let body = match payload.take() {
                Some(body) => body,
                None if repeatable => Either::Right(Full::new(Bytes::new())),
                None => break,
            };
            let failure = match server.send(message(parts, server, body), time).await {
                Ok(response) => {
                    self.worked(server);
                    return Ok(response);
                }
                Err(failure) => failure,
            };
            let Failure {
                reason,
                slow,
                unsent,
            } = failure;
            // A body that breaks off looks like a server that fails: no guest
            // shall bring one into disrepute.
            if let Some(fault) = fault.get() {
                return Err(Refusal::of(*fault));
            }
            refusal.reason = format!("{}: {reason}", server.address);
            refusal.status = if slow {
                StatusCode::GATEWAY_TIMEOUT
            } else {
                StatusCode::BAD_GATEWAY
            };
            self.failed(server, &reason);
            // The guest's patience has come to an end as well.
            if slow && unsent.is_none() {
                break;
            }
            payload = unsent.map(|request| request.into_body());
        }
        Err(refusal)
    }

    fn order(&self) -> Vec<usize> {
        let lock = |server: &Server| *server.health.lock().unwrap_or_else(PoisonError::into_inner);
        let healths: Vec<Health> = self.servers.iter().map(lock).collect();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        health::order(&healths, first, Instant::now())
    }

    fn worked(&self, server: &Server) {
        let mut health = server.health.lock().unwrap_or_else(PoisonError::into_inner);
        if health.worked() {
            info!(server = %server.address, "the metadata server answers again");
        }
    }

    fn failed(&self, server: &Server, reason: &str) {
        let mut health = server.health.lock().unwrap_or_else(PoisonError::into_inner);
        if health.failed(Instant::now()) {
            warn!(server = %server.address, reason, "the metadata server doesn't answer");
        }
    }

    /// The fields of a request in which the guest has no say.
    fn introduce(
        &self,
        entry: &Entry,
        address: IpAddr,
        given: HeaderMap,
    ) -> Result<HeaderMap, Refusal> {
        let mut fields = headers::of_request(given);
        let forwarded_for = HeaderValue::try_from(address.to_string());
        let forwarded_for =
            forwarded_for.map_err(|error| Refusal::own(StatusCode::NOT_FOUND, error))?;
        let key = match &self.introduction {
            Introduction::Nova(key) => key,
            Introduction::Neutron => {
                // It passes none of the guest's on, and has no room for them.
                fields = fields
                    .remove(CONTENT_TYPE)
                    .map(|value| (CONTENT_TYPE, value))
                    .into_iter()
                    .collect();
                fields.insert(FORWARDED_FOR, forwarded_for);
                fields.insert(ROUTER, NO_ROUTER);
                return Ok(fields);
            }
        };
        let none = |what: &str| Refusal {
            status: StatusCode::NOT_FOUND,
            reason: format!("the port's intent has no {what}"),
            own: false,
        };
        let instance = entry.instance.as_deref().ok_or_else(|| none("instance"))?;
        let project = entry.project.as_deref().ok_or_else(|| none("project"))?;
        let value = |text: &str, what| HeaderValue::try_from(text).map_err(|_| none(what));
        fields.insert(FORWARDED_FOR, forwarded_for);
        fields.insert(INSTANCE, value(instance, "instance that fits into HTTP")?);
        fields.insert(TENANT, value(project, "project that fits into HTTP")?);
        fields.insert(
            SIGNATURE,
            value(&sign(key, instance), "instance that can be signed")?,
        );
        Ok(fields)
    }
}

/// HMAC-SHA256 of the instance's id, in hexadecimal digits (Nova's
/// `X-Instance-ID-Signature`).
fn sign(key: &hmac::Key, instance: &str) -> String {
    let tag = hmac::sign(key, instance.as_bytes());
    tag.as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A request as one server gets it: the guest's path, and the server's name.
fn message(parts: &request::Parts, server: &Server, body: Payload) -> Request<Payload> {
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts
        .uri
        .path_and_query()
        .map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()));
    *request.headers_mut() = parts.headers.clone();
    request.headers_mut().insert(HOST, server.host.clone());
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::testing;

    fn upstreams() -> Upstreams {
        let address = Address::Tcp {
            host: "127.0.0.1".to_owned(),
            port: 8775,
        };
        let secret = Secret::new("s3cret");
        Upstreams::nova(&[address], None, &secret, &Limits::default()).unwrap()
    }

    /// The digits are what Python's `hmac.new(b"s3cret", b"i-1",
    /// hashlib.sha256).hexdigest()` prints: Nova compares with that.
    #[test]
    fn signs_as_nova_does() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"s3cret");
        assert_eq!(
            sign(&key, "i-1"),
            "7413ac3c3c6280e254f452677b01835fa69cb624d284e5a6c0e8ed3a657f4484"
        );
    }

    #[test]
    fn nova_is_told_who_asks() {
        let mut entry = testing::entry("tap0", &["10.0.0.5"]);
        let guest = HeaderMap::from_iter([
            (INSTANCE, HeaderValue::from_static("another")),
            (FORWARDED_FOR, HeaderValue::from_static("10.0.0.6")),
        ]);
        let address = "10.0.0.5".parse().unwrap();
        let fields = upstreams()
            .introduce(&entry, address, guest.clone())
            .unwrap();
        let said = |name: HeaderName| fields.get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(said(INSTANCE), "instance of tap0");
        assert_eq!(said(TENANT), "project");
        assert_eq!(said(FORWARDED_FOR), "10.0.0.5");
        assert_eq!(said(SIGNATURE).len(), 64);
        assert_eq!(fields.len(), 4);
        // Of another owner than an instance: a trunk's subport, say.
        entry.instance = None;
        let refusal = upstreams().introduce(&entry, address, guest).unwrap_err();
        assert_eq!(refusal.status, StatusCode::NOT_FOUND);
        assert!(refusal.reason.contains("instance"), "{}", refusal.reason);
    }

    /// What can't be a header's value never becomes half of one.
    #[test]
    fn an_instance_with_a_line_break_is_refused() {
        let mut entry = testing::entry("tap0", &["10.0.0.5"]);
        entry.instance = Some("a\r\nX-Tenant-ID: b".to_owned());
        let address = "10.0.0.5".parse().unwrap();
        let refusal = upstreams().introduce(&entry, address, HeaderMap::new());
        assert_eq!(refusal.unwrap_err().status, StatusCode::NOT_FOUND);
    }
}
