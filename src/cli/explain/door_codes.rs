//! The codes of the workloads' door.
//!
//! Guarantees: they say what the instance's own program can do, and what its operator can.

use super::codes::{Code, code};

/// All of them.
pub(super) const DOOR_CODES: &[Code] = &[
    code(
        "bad_task",
        400,
        "At the workloads' door: the path names no task.",
        "A task's name has 1 to 128 visible ASCII characters. Others are percent-encoded in the path, and then \
         they are none.",
    ),
    code(
        "bad_hold",
        400,
        "At the workloads' door: the body of a PUT is not JSON such as {\"for\": \"10m\"}, asks for more than \
         workload.max_hold, or ended before its end. 408 where it did not come within ten seconds.",
        "The detail says what is wrong. Durations are written as Go does it: \"90s\", \"10m\", \"1h30m\".",
    ),
    code(
        "not_an_instance",
        403,
        "At the workloads' door: by the control planes' word, no instance runs at the address that the \
         request came from; or another one does since the connection was made, or the address is link-local.",
        "Make a new connection. Ask from within the instance, without a proxy or an address translation on the way. `wakegate \
         instances show NAME` has its address. Of several containers in an instance, the instance's own \
         address must be seen.",
    ),
    code(
        "ambiguous_address",
        403,
        "At the workloads' door: several control planes have an instance at the address that the request \
         came from.",
        "Give the control planes' networks different ranges, or each control plane a gateway of its own.",
    ),
    code(
        "unknown_hold",
        404,
        "At the workloads' door: the instance has no hold of this name. It may have ended.",
        "Nothing, if it was to be taken back. GET /holds lists those that there are.",
    ),
    code(
        "holds_stand",
        409,
        "At the workloads' door: the instance says that it is done, and holds keep it awake.",
        "Take them back first (DELETE /holds/{task}), or let them end.",
    ),
    code(
        "body_too_large",
        413,
        "At the workloads' door: the body is longer than 4 KiB.",
        "Send {\"for\": \"10m\"} and nothing else.",
    ),
    code(
        "too_many_holds",
        429,
        "At the workloads' door: the instance has as many holds as workload.max_holds allows, there are \
         100,000 in all, or it has changed its holds too often: ten changes a second, and a hundred at once, are \
         allowed.",
        "Take back those of tasks that are over; use one name again and again for one task. A change too many \
         has Retry-After.",
    ),
    code(
        "too_many_connections",
        503,
        "At the workloads' door: sixteen connections of one address are open, or 1024 in all.",
        "Close those that are not needed. One connection can ask one question after the other; of several \
         containers in an instance, all have the instance's address.",
    ),
    code(
        "hold_not_kept",
        503,
        "At the workloads' door: the hold could not be written to workload.state_dir, so it was not placed \
         or taken back; or the instance is just being put to sleep, as its workload has asked by POST /idle.",
        "Say it again after Retry-After: a workload that is put to sleep does so when it is awake again. Else \
         the detail has the system's words: is the disk full, or the directory no longer the gateway's?",
    ),
];
