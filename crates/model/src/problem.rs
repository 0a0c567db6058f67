//! What is wrong with an object of the intent, in words for an operator.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing wrong: where it was read, with which object and field, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// The file, or the message, it came from; empty if it has none.
    pub origin: String,
    /// The object, such as `port 89d98975-…`; empty if that can't be read.
    pub object: String,
    /// The field, such as `mac`; empty if it is the object as a whole.
    pub field: String,
    /// What is wrong with it, and what was expected.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.origin, &self.object, &self.field] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.reason)
    }
}
