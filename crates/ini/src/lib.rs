//! Configuration files as oslo.config reads them (oslo_config/iniparser.py):
//! the agent shares files with Neutron, which must mean the same to both.
//!
//! * `key = value` or `key: value`; the first `=` or `:` divides.
//! * A line that begins with white space continues the value, as a line of it.
//! * `#` and `;` begin a comment at the start of a line, and nowhere else: a
//!   `transport_url` may contain both.
//! * One pair of quotes around the value is taken off.
//! * A key may be there several times; so may a group. The case of a group's
//!   name doesn't matter, except in `DEFAULT`.
//!
//! Types, defaults and what options there are is the reader's business; so is
//! I/O. `$key` in a value is put in by [`substitute()`].

mod substitute;

use std::{collections::BTreeMap, path::Path, sync::Arc};

pub use substitute::substitute;

/// Where something was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// The line, counted from 1.
    pub line: usize,
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Lines are joined by newlines.
    pub text: String,
    /// Where it begins.
    pub place: Place,
}

/// A line that is none of the format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Where.
    pub place: Place,
    /// What is wrong with it, in words for an operator.
    pub reason: String,
}

/// What files say, by group and key: all values of a key in the last file that
/// has it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ini {
    groups: BTreeMap<String, BTreeMap<String, Vec<Value>>>,
}

impl Ini {
    /// Reads one more file, which wins over those before. Returns the lines
    /// that are none of the format; the others count.
    pub fn read(&mut self, text: &str, file: &Path) -> Vec<Wrong> {
        let mut parser = Parser {
            file: file.into(),
            found: Self::default(),
            group: None,
            open: None,
            problems: Vec::new(),
        };
        for (index, line) in text.lines().enumerate() {
            parser.line(index + 1, line.trim_end());
        }
        parser.close();
        for (group, keys) in parser.found.groups {
            self.groups.entry(group).or_default().extend(keys);
        }
        parser.problems
    }

    /// The value of a key that has one; of several the last.
    #[must_use]
    pub fn get(&self, group: &str, key: &str) -> Option<&Value> {
        self.groups.get(&normal(group))?.get(key)?.last()
    }

    /// The keys of a group, with their values.
    pub fn keys(&self, group: &str) -> impl Iterator<Item = (&str, &Value)> {
        let keys = self.groups.get(&normal(group)).into_iter().flatten();
        keys.filter_map(|(key, values)| Some((key.as_str(), values.last()?)))
    }
}

/// A group's name as it is compared.
fn normal(group: &str) -> String {
    if group == "DEFAULT" {
        group.to_owned()
    } else {
        group.to_lowercase()
    }
}

struct Parser {
    file: Arc<Path>,
    found: Ini,
    /// The group at hand.
    group: Option<String>,
    /// The key and value that the next line may continue.
    open: Option<(String, Value)>,
    problems: Vec<Wrong>,
}

impl Parser {
    fn line(&mut self, number: usize, line: &str) {
        if line.is_empty() {
            self.close();
        } else if line.starts_with([' ', '\t']) {
            match &mut self.open {
                Some((_, value)) => {
                    value.text.push('\n');
                    value.text.push_str(line.trim_start());
                }
                None => self.wrong(number, "continues nothing; take the white space away"),
            }
        } else {
            self.close();
            if line.starts_with('[') {
                self.header(number, line);
            } else if !line.starts_with(['#', ';']) {
                self.assignment(number, line);
            }
        }
    }

    fn header(&mut self, number: usize, line: &str) {
        match line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            Some("") => self.wrong(number, "names no group; expected [group]"),
            Some(name) => {
                let name = normal(name);
                self.found.groups.entry(name.clone()).or_default();
                self.group = Some(name);
            }
            None => self.wrong(number, "begins a group but doesn't end with ]"),
        }
    }

    fn assignment(&mut self, number: usize, line: &str) {
        let Some((key, text)) = line.split_once(['=', ':']) else {
            return self.wrong(
                number,
                "is no assignment; expected key = value, # comment or [group]",
            );
        };
        let key = key.trim();
        if key.is_empty() {
            return self.wrong(number, "has no key before the = or :");
        }
        if self.group.is_none() {
            return self.wrong(number, "stands before any group; expected [group] above it");
        }
        let place = Place {
            file: Arc::clone(&self.file),
            line: number,
        };
        let text = unquote(text.trim()).to_owned();
        self.open = Some((key.to_owned(), Value { text, place }));
    }

    /// The value at hand is complete.
    fn close(&mut self) {
        if let (Some((key, value)), Some(group)) = (self.open.take(), &self.group) {
            let keys = self.found.groups.entry(group.clone()).or_default();
            keys.entry(key).or_default().push(value);
        }
    }

    fn wrong(&mut self, line: usize, reason: &str) {
        self.problems.push(Wrong {
            place: Place {
                file: Arc::clone(&self.file),
                line,
            },
            reason: format!("the line {reason}"),
        });
    }
}

/// Takes one pair of equal quotes off. A lone quote is both of its ends.
fn unquote(text: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(rest) = text.strip_prefix(quote) {
            if rest.is_empty() {
                return rest;
            }
            if let Some(inner) = rest.strip_suffix(quote) {
                return inner;
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All values of all keys, with their lines.
    fn parse(text: &str) -> (Vec<String>, Vec<usize>) {
        let mut ini = Ini::default();
        let problems = ini.read(text, Path::new("t.conf"));
        let mut found = Vec::new();
        for (group, keys) in &ini.groups {
            for (key, values) in keys {
                for value in values {
                    found.push(format!(
                        "{} {group}.{key}={}",
                        value.place.line,
                        value.text.escape_default()
                    ));
                }
            }
        }
        (
            found,
            problems.iter().map(|wrong| wrong.place.line).collect(),
        )
    }

    /// The expected values are what oslo.config 10 makes of this text.
    #[test]
    fn reads_what_oslo_config_reads() {
        let text = "# a comment\n[DEFAULT]\nhost = hv1\n\
            transport_url = rabbit://user:pa#ss;x@[2001:db8::1]:5672//?ssl=1\n\
            colon: value = with equals\nquoted = \"two words\"\nsingle = 'it''s'\nlone = \"\n\
            half = \"open\nempty =\nlist = a\nlist = b\ncontinued = one\n  two # no comment\n\
            \tthree\n\n; another comment\r\n[OSLO_Messaging_Rabbit]\nkey = value\n[DEFAULT]\nlater = yes\n   \n";
        let (found, problems) = parse(text);
        assert_eq!(
            found,
            [
                "5 DEFAULT.colon=value = with equals",
                "13 DEFAULT.continued=one\\ntwo # no comment\\nthree",
                "10 DEFAULT.empty=",
                "9 DEFAULT.half=\\\"open",
                "3 DEFAULT.host=hv1",
                "21 DEFAULT.later=yes",
                "11 DEFAULT.list=a",
                "12 DEFAULT.list=b",
                "8 DEFAULT.lone=",
                "6 DEFAULT.quoted=two words",
                "7 DEFAULT.single=it\\'\\'s",
                "4 DEFAULT.transport_url=rabbit://user:pa#ss;x@[2001:db8::1]:5672//?ssl=1",
                "19 oslo_messaging_rabbit.key=value",
            ]
        );
        assert_eq!(problems, Vec::<usize>::new());
    }

    /// Each wrong line is named, and costs nothing but itself.
    #[test]
    fn names_wrong_lines() {
        let text = "early = 1\n[open\n[]\n[a]\n  stray\n= 1\nword\nkey = 1\n\n  stray\n";
        let (found, problems) = parse(text);
        assert_eq!(found, ["8 a.key=1"]);
        assert_eq!(problems, [1, 2, 3, 5, 6, 7, 10]);
    }

    #[test]
    fn a_later_file_wins_by_key() {
        let mut ini = Ini::default();
        ini.read("[A]\nx = 1\nx = 2\ny = 1\n", Path::new("one"));
        ini.read("[a]\nx = 3\n", Path::new("two"));
        let text = |key| ini.get("A", key).map(|value| value.text.as_str());
        assert_eq!(
            (text("x"), text("y"), text("z")),
            (Some("3"), Some("1"), None)
        );
    }
}
