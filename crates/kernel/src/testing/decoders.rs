//! What reads the kernel's bytes, open to whoever feeds it others: fuzz targets
//! and tests. None of it may panic, hang or take more than it is given.
//!
//! Also a recorder of what the kernel really sends, for tests to cut short and
//! for fuzz targets to begin with.

use std::cell::RefCell;

use crate::{
    conntrack, decode::Link, mirror::Mirror, nft::read_anything, settings, socket::refusal,
    wire::Messages,
};

/// The agent's protocol number unless configured.
const PROTOCOL: u8 = 76;

thread_local! {
    static RECORD: RefCell<Option<Vec<Vec<u8>>>> = const { RefCell::new(None) };
}

/// What this thread's sockets receive while `work` is done, datagram by
/// datagram.
pub fn recorded(work: impl FnOnce()) -> Vec<Vec<u8>> {
    RECORD.set(Some(Vec::new()));
    work();
    RECORD.take().unwrap_or_default()
}

/// Keeps a datagram, if somebody records.
pub(crate) fn record(datagram: &[u8]) {
    RECORD.with_borrow_mut(|record| {
        if let Some(record) = record {
            record.push(datagram.to_vec());
        }
    });
}

/// Links, addresses, neighbours, routes and settings, as events one after the
/// other; how many changes were made out.
pub fn rtnetlink(datagram: &[u8]) -> usize {
    let mut mirror = Mirror::new(PROTOCOL);
    let mut events = Vec::new();
    for message in Messages(datagram) {
        mirror.take(&message, &mut events);
        let _ = refusal(&message);
        if let Some(link) = Link::read(&message)
            && let Some(name) = link.name
        {
            // With its proxy delay known no file is asked.
            let _ = settings::of_device(name, &link, |_| Some(0)).count();
        }
    }
    events.len() + mirror.objects().len()
}

/// Our tables of nftables; how many objects were made out.
pub fn nftables(dump: &[u8]) -> usize {
    for message in Messages(dump) {
        let _ = refusal(&message);
    }
    read_anything(dump)
}

/// Flows of connection tracking; how many.
pub fn conntrack(dump: &[u8]) -> usize {
    conntrack::read_anything(dump)
}
