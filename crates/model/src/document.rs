//! The JSON in which intent travels and rests.
//!
//! A document holds any number of objects of any kind; a host's intent is the
//! sum of its documents. Unknown fields are ignored, so that a newer writer
//! can serve an older reader. Objects are read one by one: one that is wrong
//! is reported with its field, and doesn't hold up the others.

use std::{path::Path, sync::Arc};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{
    AddressGroupId, GroupId, PortId, SubnetId,
    group::{AddressGroup, Group},
    intent::Change,
    port::{Port, PortDocument},
    problem::Problem,
    subnet::Subnet,
};

/// The schema's version; a document with another one is refused whole.
pub const VERSION: u64 = 1;

/// What the cloud wants on a host, or a part of it: a host's intent is the sum
/// of its documents. Unknown fields are ignored.
// The JSON Schema is generated from this.
#[derive(JsonSchema)]
#[schemars(rename = "l2isolate intent")]
#[expect(
    dead_code,
    reason = "describes the document; reading goes object by object"
)]
struct Shape {
    /// The schema's version.
    #[schemars(extend("const" = VERSION))]
    version: u64,
    /// Virtual machines' network interfaces.
    #[serde(default)]
    ports: Vec<PortDocument>,
    /// The prefixes from which ports have addresses.
    #[serde(default)]
    subnets: Vec<Subnet>,
    /// Security groups.
    #[serde(default)]
    groups: Vec<Group>,
    /// Address groups.
    #[serde(default)]
    address_groups: Vec<AddressGroup>,
}

/// The JSON Schema of a document.
#[must_use]
pub fn schema() -> schemars::Schema {
    schemars::schema_for!(Shape)
}

/// The lists of a document, one for each kind of objects.
pub const LISTS: [&str; 4] = ["subnets", "groups", "address_groups", "ports"];

/// An object of the intent, by kind and id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectId {
    /// A subnet.
    Subnet(SubnetId),
    /// A security group.
    Group(GroupId),
    /// An address group.
    AddressGroup(AddressGroupId),
    /// A port.
    Port(PortId),
}

impl std::fmt::Display for ObjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Subnet(id) => write!(f, "subnet {id}"),
            Self::Group(id) => write!(f, "group {id}"),
            Self::AddressGroup(id) => write!(f, "address group {id}"),
            Self::Port(id) => write!(f, "port {id}"),
        }
    }
}

/// An object of the intent, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A subnet.
    Subnet(Arc<Subnet>),
    /// A security group.
    Group(Arc<Group>),
    /// An address group.
    AddressGroup(Arc<AddressGroup>),
    /// A port.
    Port(Arc<Port>),
}

impl Object {
    /// Kind and id.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        match self {
            Self::Subnet(o) => ObjectId::Subnet(o.id.clone()),
            Self::Group(o) => ObjectId::Group(o.id.clone()),
            Self::AddressGroup(o) => ObjectId::AddressGroup(o.id.clone()),
            Self::Port(o) => ObjectId::Port(o.id.clone()),
        }
    }

    /// The source's count of its changes.
    #[must_use]
    pub fn revision(&self) -> u64 {
        match self {
            Self::Subnet(o) => o.revision,
            Self::Group(o) => o.revision,
            Self::AddressGroup(o) => o.revision,
            Self::Port(o) => o.revision,
        }
    }

    /// A document with this object alone, as the cache keeps it. `more` are
    /// fields beside the schema's, which readers of it ignore.
    ///
    /// # Errors
    /// None in practice: every field has a JSON form.
    pub fn to_document(&self, more: &[(&str, Value)]) -> Result<String, serde_json::Error> {
        let mut value = match self {
            Self::Subnet(o) => serde_json::to_value(o.as_ref())?,
            Self::Group(o) => serde_json::to_value(o.as_ref())?,
            Self::AddressGroup(o) => serde_json::to_value(o.as_ref())?,
            Self::Port(o) => serde_json::to_value(o.as_ref())?,
        };
        if let Value::Object(fields) = &mut value {
            let more = more.iter().cloned();
            fields.extend(more.map(|(key, value)| (key.to_owned(), value)));
        }
        let mut document = Map::new();
        document.insert("version".to_owned(), VERSION.into());
        document.insert(self.id().list().to_owned(), Value::Array(vec![value]));
        serde_json::to_string_pretty(&document)
    }
}

impl ObjectId {
    /// The object that `id` is in a list of [`LISTS`]; none if there is no such
    /// list, or if that is no id.
    #[must_use]
    pub fn in_list(list: &str, id: &str) -> Option<Self> {
        match list {
            "subnets" => id.parse().ok().map(Self::Subnet),
            "groups" => id.parse().ok().map(Self::Group),
            "address_groups" => id.parse().ok().map(Self::AddressGroup),
            "ports" => id.parse().ok().map(Self::Port),
            _ => None,
        }
    }

    /// The identifier alone.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Subnet(id) => id.as_str(),
            Self::Group(id) => id.as_str(),
            Self::AddressGroup(id) => id.as_str(),
            Self::Port(id) => id.as_str(),
        }
    }

    /// The list of a document in which objects of this kind stand.
    #[must_use]
    pub fn list(&self) -> &'static str {
        match self {
            Self::Subnet(_) => "subnets",
            Self::Group(_) => "groups",
            Self::AddressGroup(_) => "address_groups",
            Self::Port(_) => "ports",
        }
    }
}

/// What a document says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// The objects in it: read whole, or there but wrong.
    pub objects: Vec<(ObjectId, Change)>,
    /// What is wrong with entries whose id can't be read either. Whoever knew
    /// objects of this document can't tell which of them these are.
    pub unidentified: Vec<Problem>,
}

/// Reads a document. `origin` is the file or message, for problems.
///
/// # Errors
/// A [`Problem`] if the text is not JSON, or not a document of this version;
/// nothing of it can be used then.
pub fn parse(text: &[u8], origin: &Path) -> Result<Document, Problem> {
    let origin = origin.display().to_string();
    match serde_json::from_slice(text) {
        Ok(root) => from_value(root, &origin),
        Err(error) => Err(Problem {
            origin,
            reason: format!("is not JSON: {error}"),
            ..Problem::default()
        }),
    }
}

/// The same for JSON that was read already.
///
/// # Errors
/// As [`parse`].
pub fn from_value(root: Value, origin: &str) -> Result<Document, Problem> {
    let origin: Arc<str> = origin.into();
    let whole = |field: &str, reason: String| Problem {
        origin: origin.to_string(),
        object: String::new(),
        field: field.to_owned(),
        reason,
    };
    let Value::Object(mut root) = root else {
        return Err(whole("", "is JSON, but not an object".to_owned()));
    };
    match root.get("version").map(Value::as_u64) {
        Some(Some(VERSION)) => {}
        Some(Some(other)) => {
            return Err(whole(
                "version",
                format!("{other} is not known; this agent reads version {VERSION}"),
            ));
        }
        _ => {
            return Err(whole(
                "version",
                format!("is missing or no number; write \"version\": {VERSION}"),
            ));
        }
    }
    let mut document = Document::default();
    let mut list = |name: &'static str, one: fn(Value) -> Read| -> Result<(), Problem> {
        let entries = match root.remove(name) {
            None | Some(Value::Null) => return Ok(()),
            Some(Value::Array(entries)) => entries,
            Some(_) => return Err(whole(name, "is not a list".to_owned())),
        };
        for (index, entry) in entries.into_iter().enumerate() {
            match one(entry) {
                Ok(object) => {
                    let origin = Arc::clone(&origin);
                    document
                        .objects
                        .push((object.id(), Change::Set { object, origin }));
                }
                Err((Some(id), field, reason)) => {
                    let problem = Problem {
                        object: id.to_string(),
                        ..whole(&field, reason)
                    };
                    document.objects.push((id, Change::Bad(problem)));
                }
                Err((None, field, reason)) => {
                    let problem = Problem {
                        object: format!("{name}[{index}]"),
                        ..whole(&field, reason)
                    };
                    document.unidentified.push(problem);
                }
            }
        }
        Ok(())
    };
    list("subnets", |v| {
        let subnet: Subnet = read(v, ObjectId::Subnet)?;
        subnet
            .check()
            .map_err(|(f, why)| (Some(ObjectId::Subnet(subnet.id.clone())), f.to_owned(), why))?;
        Ok(Object::Subnet(Arc::new(subnet)))
    })?;
    list("groups", |v| {
        Ok(Object::Group(Arc::new(read(v, ObjectId::Group)?)))
    })?;
    list("address_groups", |v| {
        Ok(Object::AddressGroup(Arc::new(read(
            v,
            ObjectId::AddressGroup,
        )?)))
    })?;
    list("ports", |v| {
        Ok(Object::Port(Arc::new(read(v, ObjectId::Port)?)))
    })?;
    Ok(document)
}

/// An entry read, or its id if that could be read, the field and the reason.
type Read<T = Object> = Result<T, (Option<ObjectId>, String, String)>;

fn read<T: DeserializeOwned, I: TryFrom<String>>(value: Value, kind: fn(I) -> ObjectId) -> Read<T> {
    let id = value
        .get("id")
        .and_then(Value::as_str)
        .and_then(|id| I::try_from(id.to_owned()).ok())
        .map(kind);
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = error.path().to_string();
        let field = if field == "." { String::new() } else { field };
        (id, field, error.into_inner().to_string())
    })
}
