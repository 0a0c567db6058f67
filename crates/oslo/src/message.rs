//! Messages as they are on the wire: envelope 2.0, requests and replies.
//!
//! A body is JSON, `{"oslo.version": "2.0", "oslo.message": "…"}`, with the
//! message itself as a string of JSON in it (`oslo_messaging/_drivers/common.py`).
//! Pure: bytes in, values out.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{Context, RemoteError};

/// The envelope that is written.
const ENVELOPE: &str = "2.0";
const CONTEXT: &str = "_context_";

/// The version of an interface: a major and a minor number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Versions of different major numbers have nothing in common.
    pub major: u32,
    /// A higher one has everything that a lower one has.
    pub minor: u32,
}

impl Version {
    /// `major.minor`
    #[must_use]
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// Whether who has this version can do what `wanted` asks for.
    #[must_use]
    pub fn serves(self, wanted: Self) -> bool {
        self.major == wanted.major && self.minor >= wanted.minor
    }
}

impl Default for Version {
    /// A message without version is of this one.
    fn default() -> Self {
        Self::new(1, 0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Version {
    type Err = MessageError;

    fn from_str(text: &str) -> Result<Self, MessageError> {
        let bad = || MessageError::Field("version", format!("{text:?} is not of the form 1.2"));
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        Ok(Self {
            major: major.parse().map_err(|_| bad())?,
            minor: minor.parse().map_err(|_| bad())?,
        })
    }
}

/// Why a message can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The body or the message in the envelope.
    #[error("is not JSON: {0}")]
    Json(String),
    /// Only one kind of JSON will do.
    #[error("is JSON, but not an object")]
    Shape,
    /// A later oslo.messaging than this library knows.
    #[error("has an envelope of version {0}, only 2.0 is known")]
    Envelope(String),
    /// `kombu_compression` is on at the sender.
    #[error("is compressed ({0}); take kombu_compression out of the sender's configuration")]
    Compressed(String),
    /// A field that is missing or of another type.
    #[error("has a wrong field {0}: {1}")]
    Field(&'static str, String),
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "oslo.version")]
    version: Cow<'a, str>,
    #[serde(rename = "oslo.message", borrow)]
    message: Cow<'a, str>,
}

/// Puts a message into its envelope.
fn wrap(message: &Map<String, Value>) -> Result<Vec<u8>, MessageError> {
    let json = |error: serde_json::Error| MessageError::Json(error.to_string());
    let message = serde_json::to_string(message).map_err(json)?;
    serde_json::to_vec(&Envelope {
        version: ENVELOPE.into(),
        message: message.into(),
    })
    .map_err(json)
}

/// Takes a message out of its envelope. A body without one is the message.
fn unwrap(body: &[u8]) -> Result<Map<String, Value>, MessageError> {
    let json = |error: serde_json::Error| MessageError::Json(error.to_string());
    // Most bodies have one; what hasn't is read once more.
    let Ok(envelope) = serde_json::from_slice::<Envelope<'_>>(body) else {
        return match serde_json::from_slice(body).map_err(json)? {
            Value::Object(message) => Ok(message),
            _ => Err(MessageError::Shape),
        };
    };
    let known = Version::from_str(&envelope.version).is_ok_and(|v| Version::new(2, 0).serves(v));
    if !known {
        return Err(MessageError::Envelope(envelope.version.into_owned()));
    }
    match serde_json::from_str(&envelope.message).map_err(json)? {
        Value::Object(message) => Ok(message),
        _ => Err(MessageError::Shape),
    }
}

/// Where a reply goes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ReplyTo {
    /// `_reply_q`: a queue.
    pub(crate) queue: String,
    /// `_msg_id`: which call is answered.
    pub(crate) call: String,
    /// `_timeout`: how many seconds the caller waits for a sign of life; none:
    /// it wants no such sign.
    pub(crate) monitor: Option<f64>,
}

/// A call, or a cast if nobody waits for a reply.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outgoing<'a> {
    pub(crate) context: &'a Context,
    pub(crate) method: &'a str,
    pub(crate) arguments: &'a Map<String, Value>,
    pub(crate) version: Version,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) unique: &'a str,
    /// `_reply_q` and `_msg_id`.
    pub(crate) reply: Option<(&'a str, &'a str)>,
}

impl Outgoing<'_> {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, MessageError> {
        let mut message = Map::new();
        let mut put = |key: &str, value: Value| message.insert(key.to_owned(), value);
        put("method", self.method.into());
        put("args", Value::Object(self.arguments.clone()));
        put("version", self.version.to_string().into());
        if let Some(namespace) = self.namespace {
            put("namespace", namespace.into());
        }
        put("_unique_id", self.unique.into());
        if let Some((queue, call)) = self.reply {
            put("_reply_q", queue.into());
            put("_msg_id", call.into());
            put("_timeout", Value::Null);
        }
        for (key, value) in self.context.iter() {
            put(&format!("{CONTEXT}{key}"), value.clone());
        }
        wrap(&message)
    }
}

/// A request that came in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Incoming {
    pub(crate) context: Context,
    pub(crate) method: String,
    pub(crate) arguments: Map<String, Value>,
    pub(crate) version: Version,
    pub(crate) namespace: Option<String>,
    pub(crate) unique: Option<String>,
    pub(crate) reply: Option<ReplyTo>,
}

fn text(
    message: &mut Map<String, Value>,
    key: &'static str,
) -> Result<Option<String>, MessageError> {
    match message.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(MessageError::Field(key, "is no string".to_owned())),
    }
}

impl Incoming {
    pub(crate) fn decode(body: &[u8]) -> Result<Self, MessageError> {
        let mut message = unwrap(body)?;
        let missing = |key| MessageError::Field(key, "is missing".to_owned());
        let method = text(&mut message, "method")?.ok_or_else(|| missing("method"))?;
        let arguments = match message.remove("args") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(arguments)) => arguments,
            Some(_) => return Err(MessageError::Field("args", "is no object".to_owned())),
        };
        let version = match text(&mut message, "version")? {
            Some(version) => version.parse()?,
            None => Version::default(),
        };
        let namespace = text(&mut message, "namespace")?;
        let unique = text(&mut message, "_unique_id")?;
        let call = text(&mut message, "_msg_id")?;
        let queue = text(&mut message, "_reply_q")?;
        let monitor = message.get("_timeout").and_then(Value::as_f64);
        let reply = match (call, queue) {
            (Some(call), Some(queue)) => Some(ReplyTo {
                queue,
                call,
                monitor,
            }),
            (Some(_), None) => return Err(missing("_reply_q")),
            (None, _) => None,
        };
        let context = message.into_iter().filter_map(|(key, value)| {
            let key = key.strip_prefix(CONTEXT)?.to_owned();
            Some((key, value))
        });
        Ok(Self {
            context: context.collect(),
            method,
            arguments,
            version,
            namespace,
            unique,
            reply,
        })
    }
}

/// One message that answers a call; the last of them ends it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reply {
    pub(crate) call: String,
    pub(crate) unique: Option<String>,
    pub(crate) ending: bool,
    pub(crate) result: Result<Value, RemoteError>,
}

impl Reply {
    pub(crate) fn encode(&self, unique: &str) -> Result<Vec<u8>, MessageError> {
        let (result, failure) = match &self.result {
            Ok(value) => (value.clone(), Value::Null),
            Err(error) => (Value::Null, error.encode().into()),
        };
        let message = json!({
            "result": result,
            "failure": failure,
            "ending": self.ending,
            "_msg_id": self.call,
            "_unique_id": unique,
        });
        match message {
            Value::Object(message) => wrap(&message),
            _ => Err(MessageError::Shape),
        }
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, MessageError> {
        let mut message = unwrap(body)?;
        let missing = || MessageError::Field("_msg_id", "is missing".to_owned());
        let call = text(&mut message, "_msg_id")?.ok_or_else(missing)?;
        let unique = text(&mut message, "_unique_id")?;
        let ending = message
            .get("ending")
            .and_then(Value::as_bool)
            .unwrap_or(false);
        let result = match message.remove("failure") {
            None | Some(Value::Null) => Ok(message.remove("result").unwrap_or_default()),
            Some(failure) => Err(RemoteError::decode(failure)),
        };
        Ok(Self {
            call,
            unique,
            ending,
            result,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(message: Value) -> Vec<u8> {
        let envelope = json!({"oslo.version": "2.0", "oslo.message": message.to_string()});
        envelope.to_string().into_bytes()
    }

    /// The words of a call as neutron's agents send it, byte for byte but for
    /// the order of keys.
    #[test]
    fn a_call_looks_like_a_python_agents() {
        let mut context = Context::default();
        context.set("is_admin", true);
        let arguments = json!({"host": "hv1"});
        let call = Outgoing {
            context: &context,
            method: "report_state",
            arguments: arguments.as_object().unwrap(),
            version: Version::new(1, 2),
            namespace: None,
            unique: "u1",
            reply: Some(("reply_1", "c1")),
        };
        let envelope: Value = serde_json::from_slice(&call.encode().unwrap()).unwrap();
        assert_eq!(envelope["oslo.version"], "2.0");
        let message: Value =
            serde_json::from_str(envelope["oslo.message"].as_str().unwrap()).unwrap();
        assert_eq!(
            message,
            json!({
                "method": "report_state", "args": {"host": "hv1"}, "version": "1.2",
                "_unique_id": "u1", "_msg_id": "c1", "_reply_q": "reply_1", "_timeout": null,
                "_context_is_admin": true,
            })
        );
        let incoming = Incoming::decode(&call.encode().unwrap()).unwrap();
        assert_eq!(incoming.context, context);
        let reply = incoming.reply.unwrap();
        assert_eq!((&*reply.queue, &*reply.call), ("reply_1", "c1"));
    }

    #[test]
    fn a_message_without_version_is_1_0() {
        let incoming = Incoming::decode(&body(json!({"method": "m", "args": {}}))).unwrap();
        assert_eq!(incoming.version, Version::new(1, 0));
        assert_eq!(incoming.reply, None);
        // Older senders have no envelope.
        let bare = Incoming::decode(br#"{"method": "m", "args": {"a": 1}}"#).unwrap();
        assert_eq!(bare.arguments["a"], 1);
    }

    /// What can't be read says why.
    #[test]
    fn bad_messages_are_named() {
        for (bytes, part) in [
            (b"\x00\x01".to_vec(), "not JSON"),
            (b"[1]".to_vec(), "not an object"),
            (
                br#"{"oslo.version": "3.0", "oslo.message": "{}"}"#.to_vec(),
                "version 3.0",
            ),
            (
                br#"{"oslo.version": "2.1", "oslo.message": "{}"}"#.to_vec(),
                "version 2.1",
            ),
            (
                br#"{"oslo.version": "2.0", "oslo.message": "{"}"#.to_vec(),
                "not JSON",
            ),
            (
                br#"{"oslo.version": "2.0", "oslo.message": "1"}"#.to_vec(),
                "not an object",
            ),
            (body(json!({})), "method"),
            (body(json!({"method": 1})), "method"),
            (body(json!({"method": "m", "args": []})), "args"),
            (body(json!({"method": "m", "version": "x"})), "version"),
            (body(json!({"method": "m", "_msg_id": "1"})), "_reply_q"),
        ] {
            let message = Incoming::decode(&bytes).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    /// A reply of a real server, with its failure as a string within a string.
    #[test]
    fn a_failure_is_decoded() {
        let failure = json!({
            "class": "UnsupportedVersion", "module": "oslo_messaging.rpc.dispatcher",
            "message": "Endpoint does not support RPC version 9.0", "tb": ["Traceback\n"],
            "args": ["9.0"], "kwargs": {},
        });
        let reply = Reply::decode(&body(json!({
            "result": null, "failure": failure.to_string(), "ending": true,
            "_msg_id": "c1", "_unique_id": "u1",
        })))
        .unwrap();
        let error = reply.result.unwrap_err();
        assert_eq!(error.class, "UnsupportedVersion");
        assert_eq!(error.traceback, ["Traceback\n"]);
        assert_eq!(
            error.to_string(),
            "oslo_messaging.rpc.dispatcher.UnsupportedVersion: \
             Endpoint does not support RPC version 9.0"
        );
        assert!(reply.ending);
    }

    #[test]
    fn versions_serve_lower_minors_of_their_major() {
        let version = |text: &str| Version::from_str(text).unwrap();
        assert!(version("1.3").serves(version("1.3")));
        assert!(version("1.3").serves(version("1.0")));
        assert!(!version("1.3").serves(version("1.4")));
        assert!(!version("2.0").serves(version("1.0")));
        assert!(version("1.10").serves(version("1.9")));
    }

    proptest! {
        /// What we write we read, whatever is in it.
        #[test]
        fn requests_survive(method in "\\PC{0,20}", key in "\\PC{0,9}", value in "\\PC{0,40}", ending: bool) {
            let mut context = Context::default();
            context.set(&key, value.clone());
            let arguments: Map<String, Value> = [(key, Value::from(value.clone()))].into_iter().collect();
            let outgoing = Outgoing {
                context: &context, method: &method, arguments: &arguments,
                version: Version::new(1, 7), namespace: Some("n"), unique: "u", reply: None,
            };
            let incoming = Incoming::decode(&outgoing.encode().unwrap()).unwrap();
            prop_assert_eq!(&incoming.arguments, &arguments);
            prop_assert_eq!(&incoming.context, &context);
            prop_assert_eq!(&incoming.method, &method);
            let reply = Reply { call: method, unique: Some("u".to_owned()), ending, result: Ok(value.into()) };
            prop_assert_eq!(Reply::decode(&reply.encode("u").unwrap()).unwrap(), reply);
        }

        /// Nothing that comes in makes it panic.
        #[test]
        fn anything_can_come_in(bytes: Vec<u8>, text in "\\PC*") {
            let _ = Incoming::decode(&bytes);
            let _ = Reply::decode(&bytes);
            let _ = Incoming::decode(&body(Value::String(text.clone())));
            let _ = Reply::decode(text.as_bytes());
        }
    }
}
