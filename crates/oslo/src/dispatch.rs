//! Which method of which endpoint serves a request
//! (`oslo_messaging/rpc/dispatcher.py`).

use std::{collections::HashMap, fmt, pin::Pin, sync::Arc};

use serde_json::{Map, Value};

use crate::{Context, RemoteError, Version};

/// A request, as a method gets it.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Who asks.
    pub context: Context,
    /// The method, for handlers of several.
    pub method: String,
    /// Its arguments, all by name.
    pub arguments: Map<String, Value>,
    /// The version that the caller needs.
    pub version: Version,
    /// Whether a reply is wanted; what a cast comes to is only logged.
    pub call: bool,
}

type Answer = Pin<Box<dyn Future<Output = Result<Value, RemoteError>> + Send>>;
pub(crate) type Handler = Arc<dyn Fn(Request) -> Answer + Send + Sync>;

/// Methods that belong together: of one namespace and version.
#[derive(Clone)]
pub struct Endpoint {
    namespace: Option<String>,
    version: Version,
    methods: HashMap<String, Handler>,
}

impl Endpoint {
    /// An endpoint without methods. It serves requests of the same major
    /// version and no higher minor.
    #[must_use]
    pub fn new(version: Version) -> Self {
        Self {
            namespace: None,
            version,
            methods: HashMap::new(),
        }
    }

    /// Serve only requests with this namespace; without, only those with none.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Adds a method.
    #[must_use]
    pub fn method<F, A>(mut self, name: &str, handler: F) -> Self
    where
        F: Fn(Request) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Value, RemoteError>> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |request| Box::pin(handler(request)));
        self.methods.insert(name.to_owned(), handler);
        self
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("namespace", &self.namespace)
            .field("version", &self.version)
            .field("methods", &self.methods.keys().collect::<Vec<_>>())
            .finish()
    }
}

/// Endpoints, asked in their order.
#[derive(Debug, Clone, Default)]
pub struct Dispatcher {
    endpoints: Vec<Endpoint>,
}

impl Dispatcher {
    /// Without endpoints: everything is refused.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an endpoint.
    #[must_use]
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// The method that serves such a request.
    pub(crate) fn find(
        &self,
        namespace: Option<&str>,
        version: Version,
        method: &str,
    ) -> Result<&Handler, RemoteError> {
        let mut compatible = false;
        for endpoint in &self.endpoints {
            if endpoint.namespace.as_deref() != namespace || !endpoint.version.serves(version) {
                continue;
            }
            compatible = true;
            // As in Python: what begins so is nobody's business.
            if let Some(handler) = endpoint.methods.get(method)
                && !method.starts_with('_')
            {
                return Ok(handler);
            }
        }
        Err(if compatible {
            RemoteError::no_such_method(method)
        } else {
            RemoteError::unsupported_version(&version.to_string())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_compatible_endpoint_with_the_method_serves() {
        let endpoint = |minor, names: &[&str]| {
            let endpoint = Endpoint::new(Version::new(1, minor));
            names.iter().fold(endpoint, |e, name| {
                e.method(name, async |_| Ok(Value::Null))
            })
        };
        let dispatcher = Dispatcher::new()
            .endpoint(endpoint(2, &["a", "_hidden"]))
            .endpoint(endpoint(5, &["a", "b"]))
            .endpoint(endpoint(1, &["c"]).namespace("ns"));
        let find = |namespace, minor, method: &str| {
            dispatcher
                .find(namespace, Version::new(1, minor), method)
                .map(|_| ())
                .map_err(|error| error.class)
        };
        assert_eq!(find(None, 0, "a"), Ok(()));
        assert_eq!(find(None, 5, "a"), Ok(()));
        assert_eq!(find(None, 4, "b"), Ok(()));
        assert_eq!(find(Some("ns"), 1, "c"), Ok(()));
        let no_method = Err("NoSuchMethod".to_owned());
        assert_eq!(find(None, 2, "c"), no_method);
        assert_eq!(find(None, 2, "_hidden"), no_method);
        let no_version = Err("UnsupportedVersion".to_owned());
        assert_eq!(find(None, 6, "a"), no_version);
        assert_eq!(find(Some("other"), 0, "a"), no_version);
        assert!(dispatcher.find(None, Version::new(2, 0), "a").is_err());
    }
}
