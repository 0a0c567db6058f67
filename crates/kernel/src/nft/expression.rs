//! The kernel's instructions, those that we use, to and from attributes.
//!
//! A rule works in the first register; only keys of several parts go on behind
//! it. Reading is strict: an instruction that has anything more to it than what is
//! written here isn't one of ours, and reads as `None`.

use super::{
    attribute::{Writer, be32, be64, text},
    uapi::{
        NFT_JUMP, NFTA_DATA_VALUE, NFTA_DATA_VERDICT, NFTA_EXPR_DATA, NFTA_EXPR_NAME,
        NFTA_VERDICT_CHAIN, NFTA_VERDICT_CODE,
    },
};
use crate::wire::Attributes;

/// NFT_REG_1, sixteen bytes; and the register of the verdict.
pub(crate) const REGISTER: u32 = 1;
const VERDICT: u32 = 0;
/// Where the parts of a key go that stand 16 and 24 bytes behind the first
/// register, as the kernel numbers them: NFT_REG_2 and NFT_REG32_06.
pub(crate) const REGISTER_16: u32 = 2;
pub(crate) const REGISTER_24: u32 = 14;

/// Keys of `meta`.
pub(crate) mod meta {
    pub(crate) const IIFNAME: u32 = 6;
    pub(crate) const OIFNAME: u32 = 7;
    pub(crate) const IIFTYPE: u32 = 8;
    pub(crate) const NFPROTO: u32 = 15;
    pub(crate) const L4PROTO: u32 = 16;
}

/// Keys of `ct`.
pub(crate) mod ct {
    pub(crate) const STATE: u32 = 0;
    pub(crate) const STATUS: u32 = 2;
}

/// Headers that `payload` counts from.
pub(crate) mod base {
    pub(crate) const LINK: u32 = 0;
    pub(crate) const NETWORK: u32 = 1;
    pub(crate) const TRANSPORT: u32 = 2;
}

/// Comparisons of `cmp`.
pub(crate) mod op {
    pub(crate) const EQ: u32 = 0;
    pub(crate) const NEQ: u32 = 1;
    pub(crate) const LTE: u32 = 3;
    pub(crate) const GTE: u32 = 5;
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expression {
    Meta(u32),
    Payload {
        base: u32,
        offset: u32,
        length: u32,
        register: u32,
    },
    /// A key of `ct`.
    Ct(u32),
    Compare(u32, Vec<u8>),
    Mask(Vec<u8>),
    Lookup {
        set: String,
        verdict: bool,
    },
    Limit {
        rate: u64,
        burst: u32,
        over: bool,
    },
    Connections(u32),
    /// Count in a counter that has a name.
    Counter(String),
    /// Count here, from this many bytes and packets on.
    Count(u64, u64),
    Log {
        group: u16,
        prefix: String,
    },
    Verdict(i32, Option<String>),
}

/// NFT_LIMIT_F_INV and NFT_CONNLIMIT_F_INV.
const OVER: u32 = 1;
/// Limits are per second.
const SECOND: u64 = 1;
/// NFT_OBJECT_COUNTER.
const COUNTER: u32 = 1;

impl Expression {
    fn name(&self) -> &'static str {
        match self {
            Self::Meta(_) => "meta",
            Self::Payload { .. } => "payload",
            Self::Ct(_) => "ct",
            Self::Compare(..) => "cmp",
            Self::Mask(_) => "bitwise",
            Self::Lookup { .. } => "lookup",
            Self::Limit { .. } => "limit",
            Self::Connections(_) => "connlimit",
            Self::Counter(_) => "objref",
            Self::Count(..) => "counter",
            Self::Log { .. } => "log",
            Self::Verdict(..) => "immediate",
        }
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        to.string(NFTA_EXPR_NAME, self.name());
        to.nest(NFTA_EXPR_DATA, |to| match self {
            Self::Meta(key) => {
                to.be32(1, REGISTER);
                to.be32(2, *key);
            }
            Self::Payload {
                base,
                offset,
                length,
                register,
            } => {
                to.be32(1, *register);
                to.be32(2, *base);
                to.be32(3, *offset);
                to.be32(4, *length);
            }
            Self::Ct(key) => {
                to.be32(1, REGISTER);
                to.be32(2, *key);
            }
            Self::Compare(op, data) => {
                to.be32(1, REGISTER);
                to.be32(2, *op);
                to.nest(3, |to| to.bytes(NFTA_DATA_VALUE, data));
            }
            Self::Mask(mask) => {
                to.be32(1, REGISTER);
                to.be32(2, REGISTER);
                to.be32(3, u32::try_from(mask.len()).unwrap_or(0));
                to.nest(4, |to| to.bytes(NFTA_DATA_VALUE, mask));
                to.nest(5, |to| to.bytes(NFTA_DATA_VALUE, &vec![0; mask.len()]));
            }
            Self::Lookup { set, verdict } => {
                to.string(1, set);
                to.be32(2, REGISTER);
                if *verdict {
                    to.be32(3, VERDICT);
                }
            }
            Self::Limit { rate, burst, over } => {
                to.be64(1, *rate);
                to.be64(2, SECOND);
                to.be32(3, *burst);
                to.be32(4, 0);
                to.be32(5, if *over { OVER } else { 0 });
            }
            Self::Connections(count) => {
                to.be32(1, *count);
                to.be32(2, OVER);
            }
            Self::Counter(name) => {
                to.be32(1, COUNTER);
                to.string(2, name);
            }
            Self::Count(bytes, packets) => {
                to.be64(1, *bytes);
                to.be64(2, *packets);
            }
            Self::Log { group, prefix } => {
                to.bytes(1, &group.to_be_bytes());
                to.string(2, prefix);
            }
            Self::Verdict(code, chain) => {
                to.be32(1, VERDICT);
                to.nest(2, |to| verdict(to, *code, chain.as_deref()));
            }
        });
    }

    /// Reads one element of a rule's list.
    pub(crate) fn read(element: &[u8]) -> Option<Self> {
        let element = Attributes(element);
        let name = text(element.value(NFTA_EXPR_NAME)?)?;
        let data = Attributes(element.value(NFTA_EXPR_DATA)?);
        let number = |kind| data.value(kind).and_then(be32);
        let long = |kind| data.value(kind).and_then(be64);
        let string = |kind| data.value(kind).and_then(text).map(str::to_owned);
        let value = |kind| {
            Some(
                Attributes(data.value(kind)?)
                    .value(NFTA_DATA_VALUE)?
                    .to_vec(),
            )
        };
        let register = |kind| (number(kind)? == REGISTER).then_some(());
        match name {
            "meta" => {
                register(1)?;
                Some(Self::Meta(number(2)?))
            }
            "payload" => Some(Self::Payload {
                base: number(2)?,
                offset: number(3)?,
                length: number(4)?,
                register: number(1)?,
            }),
            "ct" => {
                register(1)?;
                let key = number(2)?;
                // No direction: the flow as a whole.
                data.value(3).is_none().then_some(Self::Ct(key))
            }
            "cmp" => {
                register(1)?;
                Some(Self::Compare(number(2)?, value(3)?))
            }
            "bitwise" => {
                register(1)?;
                register(2)?;
                // Another operation than mask and exclusive or.
                if number(6).unwrap_or(0) != 0 || value(5)?.iter().any(|byte| *byte != 0) {
                    return None;
                }
                Some(Self::Mask(value(4)?))
            }
            "lookup" => {
                register(2)?;
                if number(5).unwrap_or(0) != 0 {
                    return None;
                }
                let verdict = match number(3) {
                    None => false,
                    Some(VERDICT) => true,
                    Some(_) => return None,
                };
                Some(Self::Lookup {
                    set: string(1)?,
                    verdict,
                })
            }
            "limit" => {
                if long(2)? != SECOND || number(4)? != 0 {
                    return None;
                }
                let over = number(5).unwrap_or(0) & OVER != 0;
                Some(Self::Limit {
                    rate: long(1)?,
                    burst: number(3)?,
                    over,
                })
            }
            "connlimit" => (number(2)? == OVER).then_some(Self::Connections(number(1)?)),
            "objref" => (number(1)? == COUNTER).then_some(Self::Counter(string(2)?)),
            "counter" => Some(Self::Count(long(1)?, long(2)?)),
            "log" => {
                let group = data.value(1)?.try_into().ok().map(u16::from_be_bytes)?;
                Some(Self::Log {
                    group,
                    prefix: string(2)?,
                })
            }
            "immediate" => {
                if number(1)? != VERDICT {
                    return None;
                }
                let (code, chain) = read_verdict(data.value(2)?)?;
                Some(Self::Verdict(code, chain))
            }
            _ => None,
        }
    }
}

/// Writes a verdict as data.
pub(crate) fn verdict(to: &mut Writer, code: i32, chain: Option<&str>) {
    to.nest(NFTA_DATA_VERDICT, |to| {
        to.bytes(NFTA_VERDICT_CODE, &code.to_be_bytes());
        if let Some(chain) = chain {
            to.string(NFTA_VERDICT_CHAIN, chain);
        }
    });
}

/// Reads data that is a verdict.
pub(crate) fn read_verdict(data: &[u8]) -> Option<(i32, Option<String>)> {
    let inner = Attributes(Attributes(data).value(NFTA_DATA_VERDICT)?);
    let code = inner
        .value(NFTA_VERDICT_CODE)?
        .try_into()
        .ok()
        .map(i32::from_be_bytes)?;
    let chain = inner
        .value(NFTA_VERDICT_CHAIN)
        .and_then(text)
        .map(str::to_owned);
    ((code == NFT_JUMP) == chain.is_some()).then_some((code, chain))
}
