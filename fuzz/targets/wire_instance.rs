//! Instances as a server sends them: what is read and written reads back to the same, and nothing
//! that is not a default is lost at the top or below.
#![no_main]

use hypeman::wire::Instance;
use serde_json::Value;

/// Whether everything in `before` is in `after`, but for what reading makes the same: `null` and
/// absence, and an empty list, map or text and absence.
fn has_all(before: &Value, after: Option<&Value>) -> bool {
    match (before, after) {
        (Value::Object(before), Some(Value::Object(after))) => before
            .iter()
            .all(|(name, member)| has_all(member, after.get(name))),
        (Value::Array(before), Some(Value::Array(after))) => {
            // What cannot be read of a list comes after the rest of it.
            before.len() == after.len()
                && before
                    .iter()
                    .all(|one| after.iter().any(|other| has_all(one, Some(other))))
        }
        (Value::Null, _) => true,
        (Value::Object(before), None) => before.is_empty(),
        (Value::Array(before), None) => before.is_empty(),
        (Value::String(before), None) => before.is_empty(),
        // Times, spans and networks are written in their canonical form.
        (Value::String(_), Some(Value::String(_))) => true,
        (before, Some(after)) => before == after,
        (_, None) => false,
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(instance) = serde_json::from_slice::<Instance>(bytes) else {
        return;
    };
    let Ok(written) = serde_json::to_string(&instance) else {
        panic!("{instance:?} cannot be written");
    };
    let again = serde_json::from_str::<Instance>(&written);
    assert_eq!(again.ok().as_ref(), Some(&instance), "{written}");
    // A member that is there twice is not JSON that anybody means.
    let (Ok(before), Ok(after)) = (
        serde_json::from_slice::<Value>(bytes),
        serde_json::from_str::<Value>(&written),
    ) else {
        return;
    };
    assert!(has_all(&before, Some(&after)), "{before} became {after}");
});
