//! Which header fields pass, and which are the proxy's own to say.

use std::collections::BTreeSet;

use http::{
    HeaderMap, HeaderName,
    header::{
        CONNECTION, CONTENT_LENGTH, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
        TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
};

/// Of one connection only (RFC 9110, 7.6.1); `host` is the server's own, and
/// what `expect` asks for is answered here.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    EXPECT,
];

/// How the names begin by which Nova, Neutron or a load balancer before them
/// are told who asks.
const IDENTITY: [&str; 9] = [
    "forwarded",
    "x-forwarded",
    "x-instance-id",
    "x-metadata-provider",
    "x-neutron-",
    "x-ovn-",
    "x-project-id",
    "x-real-ip",
    "x-tenant-id",
];

/// A request's fields without those that a guest mustn't say.
pub(super) fn of_request(mut headers: HeaderMap) -> HeaderMap {
    remove(&mut headers, |name| {
        // WSGI and CGI take `x_tenant_id` for `x-tenant-id`.
        name.contains('_') || IDENTITY.iter().any(|start| name.starts_with(start))
    });
    headers.remove(HOST);
    // Said anew, from the body as it was understood.
    headers.remove(CONTENT_LENGTH);
    headers
}

/// A response's fields without those of the connection to the server.
pub(super) fn of_response(mut headers: HeaderMap) -> HeaderMap {
    // A length beside chunks is wrong; alone it is kept, for answers to HEAD.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    remove(&mut headers, |_| false);
    headers
}

fn remove(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    let named: BTreeSet<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|token| token.trim().to_ascii_lowercase())
        .collect();
    let goes = |name: &HeaderName| {
        HOP_BY_HOP.contains(name)
            || matches!(name.as_str(), "keep-alive" | "proxy-connection")
            || named.contains(name.as_str())
            || unwanted(name.as_str())
    };
    let gone: Vec<HeaderName> = headers.keys().filter(|name| goes(name)).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| {
                let name: HeaderName = name.parse().unwrap();
                (name, HeaderValue::from_str(value).unwrap())
            })
            .collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        headers.keys().map(HeaderName::as_str).collect()
    }

    /// A guest that says who it is could be believed; one that says what is for
    /// the proxy alone could confuse where the next request begins.
    #[test]
    fn identity_and_connection_are_not_the_guests_to_say() {
        let headers = map(&[
            ("Host", "169.254.169.254"),
            ("X-Instance-ID", "other"),
            ("X_Instance_ID", "other"),
            ("x-tenant-id", "other"),
            ("X-Forwarded-For", "10.0.0.1"),
            ("x-instance-id-signature", "00"),
            ("X-Metadata-Provider", "lb"),
            ("X-Metadata-Provider-Signature", "00"),
            ("X-Neutron-Router-ID", "r"),
            ("Connection", "close, X-Secret-Hop"),
            ("X-Secret-Hop", "1"),
            ("Keep-Alive", "5"),
            ("TE", "trailers"),
            ("Transfer-Encoding", "chunked"),
            ("Upgrade", "h2c"),
            ("Expect", "100-continue"),
            ("Accept", "*/*"),
            ("Content-Length", "3"),
            ("X-aws-ec2-metadata-token", "t"),
        ]);
        assert_eq!(
            names(&of_request(headers)),
            ["accept", "x-aws-ec2-metadata-token"]
        );
        let response = map(&[
            ("Connection", "keep-alive"),
            ("Transfer-Encoding", "chunked"),
            ("Content-Length", "3"),
            ("X-Instance-ID", "shown"),
            ("Content-Type", "text/plain"),
        ]);
        assert_eq!(
            names(&of_response(response)),
            ["x-instance-id", "content-type"]
        );
    }

    proptest! {
        /// However a name is written, nothing passes that a server could take
        /// for one of ours.
        #[test]
        fn no_spelling_passes(
            words in prop_oneof![
                Just("x instance id"), Just("x instance id signature"), Just("x tenant id"),
                Just("x forwarded for"), Just("x neutron router id"), Just("x metadata provider"),
            ],
            gaps in proptest::collection::vec("[-_]", 4),
            upper in any::<bool>(),
        ) {
            let gap = |(word, gap): (&str, &String)| format!("{word}{gap}");
            let name: String = words.split(' ').zip(&gaps).map(gap).collect();
            let name = name.trim_end_matches(['-', '_']);
            let name = if upper { name.to_uppercase() } else { name.to_owned() };
            let passed = of_request(map(&[(&name, "other"), ("accept", "*/*")]));
            prop_assert_eq!(names(&passed), ["accept"]);
        }

        #[test]
        fn a_connection_field_breaks_nothing(value in proptest::collection::vec(0x20..=0xff_u8, 0..40)) {
            let mut headers = map(&[("accept", "*/*")]);
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.insert(CONNECTION, value);
            }
            prop_assert!(!of_request(headers).contains_key(CONNECTION));
        }
    }
}
