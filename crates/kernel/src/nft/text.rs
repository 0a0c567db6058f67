//! The firewall in the words of the program `nft`, as `nft -f` reads them.

use std::fmt::Write;

use l2isolate_model::filter::{
    Chain, Each, Family, Item, Key, Limit, Name, Objects, SetType, Side, TABLE, Table, Term, Value,
    Way,
};

/// Renders objects. Owner and persist flags are left out: no version of `nft`
/// could give a table away.
#[must_use]
pub fn render(objects: &Objects) -> String {
    let mut out = String::new();
    for table in Table::ALL {
        let mut of_table = objects
            .iter()
            .filter(|(key, _)| key.table() == table)
            .peekable();
        if of_table.peek().is_none() {
            continue;
        }
        line(&mut out, 0, &format!("table {} {TABLE} {{", table.family()));
        for (key, value) in of_table {
            match (key, value) {
                (Key::Counter(_, name), _) => line(&mut out, 1, &format!("counter {name} {{ }}")),
                (Key::Set(_, name), Value::Set(kind)) => set(&mut out, objects, table, name, *kind),
                (Key::Chain(_, name), Value::Chain(body)) => chain(&mut out, name, body),
                _ => {}
            }
        }
        line(&mut out, 0, "}");
        // Elements of sets that aren't among the objects themselves.
        for (key, value) in objects {
            if let (Key::Element(t, set, item), Value::Element(_)) = (key, value)
                && *t == table
                && !objects.contains_key(&Key::Set(table, Name::clone(set)))
            {
                let family = table.family();
                let item = element(*item, value, None);
                line(
                    &mut out,
                    0,
                    &format!("add element {family} {TABLE} {set} {{ {item} }}"),
                );
            }
        }
    }
    out
}

fn line(out: &mut String, depth: usize, text: &str) {
    // Writing to a String can't fail.
    let _ = writeln!(out, "{:indent$}{text}", "", indent = depth * 4);
}

fn set(out: &mut String, objects: &Objects, table: Table, name: &Name, kind: SetType) {
    let address = |family| match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    };
    let interval = " flags interval;".to_owned();
    let done = |each| match each {
        Each::Nothing => String::new(),
        each => format!(" {};", of_each(each)),
    };
    let (word, of, more) = match kind {
        SetType::Verdicts => ("map", "ifname : verdict".to_owned(), String::new()),
        SetType::Devices(each) => ("set", "ifname".to_owned(), done(each)),
        SetType::DeviceAddresses(family) => (
            "set",
            format!("ifname . {}", address(family)),
            String::new(),
        ),
        SetType::Sources(family, each) => {
            let of = format!("ifname . ether_addr . {}", address(family));
            ("set", of, done(each))
        }
        SetType::Ports => ("set", "inet_service".to_owned(), interval),
        SetType::Addresses(family) => ("set", address(family).to_owned(), String::new()),
        SetType::Ranges(family) => ("set", address(family).to_owned(), interval),
    };
    let mut text = format!("{word} {name} {{ type {of};{more}");
    let elements: Vec<String> = objects
        .iter()
        .filter_map(|(key, value)| match key {
            Key::Element(t, set, item) if *t == table && set == name => {
                Some(element(*item, value, Some(kind)))
            }
            _ => None,
        })
        .collect();
    if !elements.is_empty() {
        let _ = write!(text, " elements = {{ {} }}", elements.join(", "));
    }
    text.push_str(" }");
    line(out, 1, &text);
}

/// An element of a set that is of this kind, if that is known. Those that count
/// connections say so themselves (`set.rs` tells why).
fn element(item: Item, value: &Value, kind: Option<SetType>) -> String {
    let item = match item {
        Item::Device(name) => format!("\"{name}\""),
        Item::DeviceAddress(name, address) => format!("\"{name}\" . {address}"),
        Item::Source(name, mac, address) => format!("\"{name}\" . {mac} . {address}"),
        _ => item.to_string(),
    };
    match value {
        Value::Element(Some(verdict)) => format!("{item} : {verdict}"),
        _ => match kind {
            Some(SetType::Devices(each @ Each::Connections(_))) => {
                format!("{item} {}", of_each(each))
            }
            _ => item,
        },
    }
}

fn chain(out: &mut String, name: &Name, chain: &Chain) {
    line(out, 1, &format!("chain {name} {{"));
    if let Some(hook) = chain.hook {
        let place = hook.place.name();
        let priority = hook.priority;
        line(
            out,
            2,
            &format!("type filter hook {place} priority {priority}; policy accept;"),
        );
    }
    for rule in &chain.rules {
        let words: Vec<String> = rule.iter().map(term).collect();
        line(out, 2, &words.join(" "));
    }
    line(out, 1, "}");
}

fn device(way: Way) -> &'static str {
    match way {
        Way::In => "iifname",
        Way::Out => "oifname",
    }
}

fn address(family: Family, side: Side) -> &'static str {
    match (family, side) {
        (Family::V4, Side::Source) => "ip saddr",
        (Family::V4, Side::Destination) => "ip daddr",
        (Family::V6, Side::Source) => "ip6 saddr",
        (Family::V6, Side::Destination) => "ip6 daddr",
    }
}

fn icmp(family: Family) -> &'static str {
    match family {
        Family::V4 => "icmp",
        Family::V6 => "icmpv6",
    }
}

fn rate(limit: Limit) -> String {
    format!("{}/second burst {} packets", limit.rate, limit.burst)
}

fn of_each(each: Each) -> String {
    match each {
        Each::Nothing => String::new(),
        Each::Count => "counter".to_owned(),
        Each::Over(limit) => format!("limit rate over {} counter", rate(limit)),
        Each::Within(limit) => format!("limit rate {}", rate(limit)),
        Each::Connections(most) => format!("ct count over {most} counter"),
    }
}

fn term(term: &Term) -> String {
    match term {
        Term::DevicePrefix(way, prefix) => format!("{} \"{prefix}*\"", device(*way)),
        Term::Dispatch(way, map) => format!("{} vmap @{map}", device(*way)),
        Term::DeviceIn(way, set) => format!("{} @{set}", device(*way)),
        Term::DestinationIn(family, set) => {
            let destination = address(*family, Side::Destination);
            format!("iifname . {destination} @{set}")
        }
        Term::SourceIn(family, set) => {
            let source = address(*family, Side::Source);
            format!("iifname . ether saddr . {source} @{set}")
        }
        Term::ArpSourceIn(set) => format!("iifname . ether saddr . arp saddr ip @{set}"),
        Term::ArpSenderIn(set) => format!("iifname . arp saddr ether . arp saddr ip @{set}"),
        Term::Family(Family::V4) => "meta nfproto ipv4".to_owned(),
        Term::Family(Family::V6) => "meta nfproto ipv6".to_owned(),
        Term::Protocol(number) => format!("meta l4proto {number}"),
        Term::EtherSource(mac) => format!("ether saddr {mac}"),
        Term::Address(side, net) => format!("{} {net}", address(Family::of(net.addr()), *side)),
        Term::AddressIn(side, family, set) => format!("{} @{set}", address(*family, *side)),
        Term::Ports(source, destination) => {
            format!(
                "@th,0,32 {}",
                u32::from(*source) << 16 | u32::from(*destination)
            )
        }
        Term::Port(first, last) if first == last => format!("th dport {first}"),
        Term::Port(first, last) => format!("th dport {first}-{last}"),
        Term::PortIn(set) => format!("th dport @{set}"),
        Term::Relayed => "@th,256,32 != 0".to_owned(),
        Term::IcmpType(family, kind) => format!("{} type {kind}", icmp(*family)),
        Term::IcmpTypes(family, first, last) => format!("{} type {first}-{last}", icmp(*family)),
        Term::IcmpCode(family, kind, code) => {
            let icmp = icmp(*family);
            format!("{icmp} type {kind} {icmp} code {code}")
        }
        Term::Known => "ct state established,related".to_owned(),
        Term::Unknown => "ct state & (established | related) == 0".to_owned(),
        Term::New => "ct status & confirmed == 0".to_owned(),
        Term::ArpMac(mac) => format!("arp saddr ether {mac}"),
        Term::ArpAddress(net) => format!("arp saddr ip {net}"),
        Term::Count(name) => format!("counter name {name}"),
        Term::Log(group, prefix) => format!("log prefix \"{prefix}\" group {group}"),
        Term::Accept => "accept".to_owned(),
        Term::Drop => "drop".to_owned(),
        Term::Jump(chain) => format!("jump {chain}"),
    }
}
