//! The request context that travels with each message.

use serde_json::{Map, Value};

use crate::unique;

/// Who asks, and for whom: what Python's `oslo_context` has. Keys that a
/// receiver doesn't know are ignored.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Context(Map<String, Value>);

impl Context {
    /// A service itself, with all rights. Neutron takes a context for an
    /// administrator's by `is_admin` alone.
    #[must_use]
    pub fn admin() -> Self {
        let mut context = Self::default();
        let id = unique::uuid();
        context.set("is_admin", true);
        context.set("request_id", format!("req-{id}"));
        context.set("roles", vec!["admin", "member", "reader"]);
        context.set("project_id", Value::Null);
        context.set("user_id", Value::Null);
        context
    }

    /// Sets a key, without `_context_`.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    /// The value of a key, if there.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// All keys with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }
}

impl FromIterator<(String, Value)> for Context {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}
