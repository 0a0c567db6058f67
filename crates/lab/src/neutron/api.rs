//! The few words of HTTP that it takes to talk to Neutron's API.
//!
//! HTTP/1.0 (RFC 1945): one request for each connection, and the answer ends
//! with it, so there is no chunked encoding to undo.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

use crate::{Error, Result};

/// Neutron takes its time where it retries deadlocks.
const TIMEOUT: Duration = Duration::from_secs(120);

/// What the API says.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// HTTP's status.
    pub status: u16,
    /// The body; null if there is none, a string if it isn't JSON.
    pub body: Value,
}

/// Asks.
pub(super) fn ask(
    socket: SocketAddr,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<Answer> {
    let what = || format!("{method} http://{socket}{path}");
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {socket}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let exchange = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&socket, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().map_err(Error::io(what()))?;
    parse(&String::from_utf8_lossy(&answer))
        .ok_or_else(|| Error::Program(format!("{}: the answer isn't HTTP", what())))
}

fn parse(answer: &str) -> Option<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    let body = match body.trim() {
        "" => Value::Null,
        text => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
    };
    Some(Answer {
        status: status.parse().ok()?,
        body,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What isn't an answer must not pass for one.
    #[test]
    fn reads_status_and_body() {
        let answer = |status, body| Some(Answer { status, body });
        let ok = "HTTP/1.0 200 OK\r\nServer: x\r\n\r\n{\"a\": 1}";
        assert_eq!(parse(ok), answer(200, serde_json::json!({"a": 1})));
        let empty = "HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(parse(empty), answer(204, Value::Null));
        let text = "HTTP/1.0 500 Internal\r\n\r\noops";
        assert_eq!(parse(text), answer(500, "oops".into()));
        for bad in [
            "",
            "HTTP/1.0 200 OK",
            "SSH-2.0\r\n\r\n",
            "HTTP/1.0 x\r\n\r\n",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
