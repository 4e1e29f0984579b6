//! Changes of objects of Kubernetes, which are JSON values so that members that this program does not know stay as they are.

use serde_json::{Map, Value};

/// Returns a member that is an object. A missing one is made, and a value of another type is replaced.
pub fn object<'v>(value: &'v mut Value, name: &str) -> &'v mut Value {
    let member = member(value, name);
    if !member.is_object() {
        *member = Value::Object(Map::new());
    }
    member
}

/// Returns a member that is a list. A missing one is made, and a value of another type is replaced.
pub fn array<'v>(value: &'v mut Value, name: &str) -> &'v mut Vec<Value> {
    let member = member(value, name);
    if !member.is_array() {
        *member = Value::Array(Vec::new());
    }
    member.as_array_mut().expect("it was made a list")
}

/// Sets a member.
pub fn set(value: &mut Value, name: &str, new: impl Into<Value>) {
    *member(value, name) = new.into();
}

fn member<'v>(value: &'v mut Value, name: &str) -> &'v mut Value {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let members = value.as_object_mut().expect("it was made an object");
    members.entry(name).or_insert(Value::Null)
}
