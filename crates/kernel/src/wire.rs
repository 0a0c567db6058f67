//! Netlink's framing: messages and attributes, in and out.
//!
//! RFC 3549 in the kernel's byte order, each message and attribute padded to
//! four bytes. Reading never panics: what is too short ends the iteration.

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct nlattr`.
const ATTRIBUTE: usize = 4;
/// Attribute types without NLA_F_NESTED and NLA_F_NET_BYTEORDER.
const TYPE_MASK: u16 = 0x3fff;
/// NLA_F_NESTED.
const NESTED: u16 = 0x8000;

const fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

/// A number of fixed size at an offset.
macro_rules! number {
    ($name:ident, $type:ty) => {
        /// The number at `offset`, if the bytes reach that far.
        pub(crate) fn $name(bytes: &[u8], offset: usize) -> Option<$type> {
            let end = offset.checked_add(size_of::<$type>())?;
            let raw = bytes.get(offset..end)?;
            raw.try_into().ok().map(<$type>::from_ne_bytes)
        }
    };
}

number!(read_u8, u8);
number!(read_u16, u16);
number!(read_u32, u32);
number!(read_i32, i32);
number!(read_u64, u64);

/// A message as received.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// In an event: the socket whose request caused it.
    pub(crate) port: u32,
    /// What follows the header.
    pub(crate) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes behind a fixed part of `length` bytes.
    pub(crate) fn attributes(&self, length: usize) -> Attributes<'a> {
        Attributes(self.body.get(aligned(length)..).unwrap_or_default())
    }
}

/// The messages of a datagram.
#[derive(Debug, Clone)]
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = usize::try_from(read_u32(self.0, 0)?).ok()?;
        let message = Message {
            kind: read_u16(self.0, 4)?,
            flags: read_u16(self.0, 6)?,
            sequence: read_u32(self.0, 8)?,
            port: read_u32(self.0, 12)?,
            body: self.0.get(HEADER..length)?,
        };
        self.0 = self.0.get(aligned(length)..).unwrap_or_default();
        Some(message)
    }
}

/// A row of attributes: type without its flags, and value.
#[derive(Debug, Clone)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(read_u16(self.0, 0)?);
        let kind = read_u16(self.0, 2)? & TYPE_MASK;
        let value = self.0.get(ATTRIBUTE..length)?;
        self.0 = self.0.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    }
}

impl<'a> Attributes<'a> {
    /// The value of the first attribute of that type.
    pub(crate) fn value(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().find(|(k, _)| *k == kind).map(|(_, v)| v)
    }
}

/// A request to be sent: type, flags, fixed part, attributes.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    body: Vec<u8>,
}

impl Request {
    /// A request with its fixed part (`struct ifinfomsg` and its like).
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        // No fixed part needs padding but `netconfmsg` and `rtgenmsg`.
        let mut body = Vec::with_capacity(96);
        body.extend_from_slice(fixed);
        body.resize(aligned(fixed.len()), 0);
        Self { kind, flags, body }
    }

    /// Adds an attribute.
    pub(crate) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        // No value here comes near the limit of 64 KiB.
        let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
        self.body.extend_from_slice(&length.to_ne_bytes());
        self.body.extend_from_slice(&kind.to_ne_bytes());
        self.body.extend_from_slice(value);
        self.body.resize(aligned(self.body.len()), 0);
        self
    }

    /// Adds an attribute that holds attributes.
    pub(crate) fn with_nested(self, kind: u16, values: &[(u16, &[u8])]) -> Self {
        let inner = values
            .iter()
            .fold(Self::new(0, 0, &[]), |inner, (kind, value)| {
                inner.with(*kind, value)
            });
        self.with(kind | NESTED, &inner.body)
    }

    /// The attributes of a request without a fixed part.
    pub(crate) fn into_attributes(self) -> Vec<u8> {
        self.body
    }

    /// Adds attributes that are written already.
    pub(crate) fn with_raw(mut self, attributes: &[u8]) -> Self {
        self.body.extend_from_slice(attributes);
        self
    }

    /// Appends the message to a datagram.
    pub(crate) fn append_to(&self, datagram: &mut Vec<u8>, flags: u16, sequence: u32) {
        let length = u32::try_from(HEADER + self.body.len()).unwrap_or(u32::MAX);
        datagram.extend_from_slice(&length.to_ne_bytes());
        datagram.extend_from_slice(&self.kind.to_ne_bytes());
        datagram.extend_from_slice(&(self.flags | flags).to_ne_bytes());
        datagram.extend_from_slice(&sequence.to_ne_bytes());
        // Port 0: the sender is the socket's.
        datagram.extend_from_slice(&0_u32.to_ne_bytes());
        datagram.extend_from_slice(&self.body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written is read back, odd lengths and all.
    #[test]
    fn round_trip() {
        let mut datagram = Vec::new();
        let request = Request::new(24, 0x1, &[7]).with(3, b"abc\0x").with(9, &[]);
        request.append_to(&mut datagram, 0x4, 42);
        request.append_to(&mut datagram, 0, 43);
        let messages: Vec<_> = Messages(&datagram).collect();
        assert_eq!(messages.len(), 2);
        assert_eq!(
            (messages[0].kind, messages[0].flags, messages[0].sequence),
            (24, 0x5, 42)
        );
        let attributes: Vec<_> = messages[1].attributes(1).collect();
        assert_eq!(attributes, [(3, &b"abc\0x"[..]), (9, &[][..])]);
    }

    /// The kernel is trusted, a truncated datagram must still not panic or hang.
    #[test]
    fn any_prefix_ends() {
        let mut datagram = Vec::new();
        Request::new(24, 0, &[0; 12])
            .with(1, &[1, 2, 3, 4])
            .append_to(&mut datagram, 0, 1);
        for end in 0..datagram.len() {
            assert_eq!(Messages(&datagram[..end]).count(), 0);
            assert!(Attributes(&datagram[..end]).count() < 100);
        }
        assert_eq!(Messages(&[0; 64]).count(), 0);
    }
}
