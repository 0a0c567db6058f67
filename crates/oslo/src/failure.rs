//! Exceptions that travel in a reply.

use serde_json::{Map, Value, json};

/// An exception of the other side (`serialize_remote_exception` in
/// `oslo_messaging/_drivers/common.py`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RemoteError {
    /// Its class, such as `UnsupportedVersion`. What to decide by.
    pub class: String,
    /// The class's module, such as `oslo_messaging.rpc.dispatcher`.
    pub module: String,
    /// What it says.
    pub message: String,
    /// Where it was raised, by lines.
    pub traceback: Vec<String>,
    /// What it was made with.
    pub arguments: Vec<Value>,
    /// What it was made with, by name.
    pub keywords: Map<String, Value>,
}

impl std::fmt::Display for RemoteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.module.is_empty() {
            write!(f, "{}.", self.module)?;
        }
        write!(f, "{}: {}", self.class, self.message)
    }
}

impl std::error::Error for RemoteError {}

/// Where Python keeps the exceptions of dispatching.
const DISPATCHER: &str = "oslo_messaging.rpc.dispatcher";

impl RemoteError {
    /// An exception for the other side. Python's client raises it as such if it
    /// may import `module`, and as a `RemoteError` otherwise.
    pub fn new(module: &str, class: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            class: class.to_owned(),
            module: module.to_owned(),
            arguments: vec![message.clone().into()],
            message,
            ..Self::default()
        }
    }

    /// Python's `ValueError`: an argument is wrong.
    pub fn value(message: impl Into<String>) -> Self {
        Self::new("builtins", "ValueError", message)
    }

    pub(crate) fn no_such_method(method: &str) -> Self {
        let message = format!("Endpoint does not support RPC method {method}");
        Self {
            keywords: [("method".to_owned(), method.into())].into_iter().collect(),
            arguments: Vec::new(),
            ..Self::new(DISPATCHER, "NoSuchMethod", message)
        }
    }

    pub(crate) fn unsupported_version(version: &str) -> Self {
        let message = format!("Endpoint does not support RPC version {version}");
        Self {
            keywords: [("version".to_owned(), version.into())]
                .into_iter()
                .collect(),
            arguments: Vec::new(),
            ..Self::new(DISPATCHER, "UnsupportedVersion", message)
        }
    }

    /// Whether the server has no such method, or not in this version: it is
    /// older or newer than the caller needs.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(&*self.class, "NoSuchMethod" | "UnsupportedVersion")
    }

    /// As text: a failure is a string within the message.
    pub(crate) fn encode(&self) -> String {
        json!({
            "class": self.class,
            "module": self.module,
            "message": self.message,
            "tb": self.traceback,
            "args": self.arguments,
            "kwargs": self.keywords,
        })
        .to_string()
    }

    /// Whatever it is: a call that failed has failed, also where nobody can
    /// tell why.
    pub(crate) fn decode(failure: Value) -> Self {
        let text = match failure {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let Ok(Value::Object(mut fields)) = serde_json::from_str(&text) else {
            return Self {
                class: "unknown".to_owned(),
                message: text,
                ..Self::default()
            };
        };
        let mut string = |key: &str| match fields.remove(key) {
            Some(Value::String(text)) => text,
            Some(Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        };
        let (class, module, message) = (string("class"), string("module"), string("message"));
        let lines = |value: Option<Value>| match value {
            Some(Value::Array(lines)) => lines,
            _ => Vec::new(),
        };
        let traceback = lines(fields.remove("tb"));
        Self {
            class,
            module,
            message,
            traceback: traceback
                .into_iter()
                .filter_map(|line| line.as_str().map(str::to_owned))
                .collect(),
            arguments: lines(fields.remove("args")),
            keywords: match fields.remove("kwargs") {
                Some(Value::Object(keywords)) => keywords,
                _ => Map::new(),
            },
        }
    }
}
