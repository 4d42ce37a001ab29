//! A control plane that is killed at any of its system calls: list, disk and processes agree when
//! it is started again.
//!
//! `make test` tries a few points of each verb of processes and of the main ones of VMs,
//! `make crash-points` all points of all verbs.

mod ends;
mod others;
mod plane;
mod points;
mod template;
mod tracer;
mod verbs;
mod world;

use others::{fill_the_disk_at_each_point, kill_the_vm_at_each_point};
use plane::Kind::{Process, Vm};
use points::kill_at_each_point;
use verbs::Verb;

/// One test for each verb.
macro_rules! verbs {
    ($kind:ident: $($(#[$meta:meta])* $name:ident $verb:ident,)*) => {
        $(
            $(#[$meta])*
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                kill_at_each_point($kind, Verb::$verb).await;
            }
        )*
    };
}

verbs! { Process:
    a_process_that_is_created_is_whole_or_not_there Create,
    a_process_that_is_started_runs_or_does_not Start,
    a_process_that_is_stopped_is_or_is_not Stop,
    a_process_that_falls_asleep_sleeps_or_does_not Standby,
    a_process_that_is_restored_is_awake_or_asleep Restore,
    a_copy_of_a_stopped_process_is_whole_or_not_there Fork,
    a_stopped_copy_of_a_process_is_whole_or_not_there ForkRunning,
    a_schedule_of_a_process_is_set_or_not SetSchedule,
    a_schedule_of_a_process_is_deleted_or_not DeleteSchedule,
    a_process_is_changed_or_not Patch,
    a_process_that_is_deleted_is_there_or_not Delete,
    a_sleeping_process_that_is_deleted_is_there_or_not DeleteAsleep,
}

verbs! { Vm:
    a_vm_that_is_created_is_whole_or_not_there Create,
    #[ignore = "half a minute; `make crash-points`"]
    a_vm_that_is_started_runs_or_does_not Start,
    #[ignore = "half a minute; `make crash-points`"]
    a_vm_that_is_stopped_is_or_is_not Stop,
    a_vm_that_falls_asleep_sleeps_or_does_not Standby,
    a_vm_that_is_restored_is_awake_or_asleep Restore,
    a_copy_of_a_sleeping_vm_is_whole_or_not_there Fork,
    #[ignore = "half a minute; `make crash-points`"]
    a_copy_of_a_running_vm_is_whole_or_not_there ForkRunning,
    #[ignore = "half a minute; `make crash-points`"]
    a_snapshot_of_a_sleeping_vm_is_whole_or_not_there Snapshot,
    #[ignore = "half a minute; `make crash-points`"]
    a_snapshot_of_a_running_vm_is_whole_or_not_there SnapshotRunning,
    #[ignore = "half a minute; `make crash-points`"]
    a_vm_goes_back_to_a_snapshot_or_does_not SnapshotRestore,
    #[ignore = "half a minute; `make crash-points`"]
    a_copy_of_a_snapshot_is_whole_or_not_there SnapshotFork,
    #[ignore = "half a minute; `make crash-points`"]
    a_snapshot_that_is_deleted_is_there_or_not SnapshotDelete,
    #[ignore = "half a minute; `make crash-points`"]
    a_schedule_of_a_vm_is_set_or_not SetSchedule,
    #[ignore = "half a minute; `make crash-points`"]
    a_schedule_of_a_vm_is_deleted_or_not DeleteSchedule,
    #[ignore = "half a minute; `make crash-points`"]
    a_vm_is_changed_or_not Patch,
    a_vm_that_is_deleted_is_there_or_not Delete,
    #[ignore = "half a minute; `make crash-points`"]
    a_sleeping_vm_that_is_deleted_is_there_or_not DeleteAsleep,
}

/// The same for disks that become full.
macro_rules! full {
    ($kind:ident: $($(#[$meta:meta])* $name:ident $verb:ident,)*) => {
        $(
            $(#[$meta])*
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                fill_the_disk_at_each_point($kind, Verb::$verb).await;
            }
        )*
    };
}

full! { Process:
    a_process_is_created_or_not_where_the_disk_becomes_full Create,
    a_process_is_started_or_not_where_the_disk_becomes_full Start,
    a_process_falls_asleep_or_not_where_the_disk_becomes_full Standby,
    a_process_is_restored_or_not_where_the_disk_becomes_full Restore,
    a_process_is_copied_or_not_where_the_disk_becomes_full Fork,
    a_process_is_changed_or_not_where_the_disk_becomes_full Patch,
    a_schedule_is_set_or_not_where_the_disk_becomes_full SetSchedule,
    a_process_is_deleted_or_not_where_the_disk_becomes_full Delete,
}

full! { Vm:
    a_vm_falls_asleep_or_not_where_the_disk_becomes_full Standby,
    #[ignore = "half a minute; `make crash-points`"]
    a_vm_is_restored_or_not_where_the_disk_becomes_full Restore,
    #[ignore = "half a minute; `make crash-points`"]
    a_running_vm_is_copied_or_not_where_the_disk_becomes_full ForkRunning,
    #[ignore = "half a minute; `make crash-points`"]
    a_snapshot_is_made_or_not_where_the_disk_becomes_full Snapshot,
    #[ignore = "half a minute; `make crash-points`"]
    a_vm_goes_back_to_a_snapshot_or_not_where_the_disk_becomes_full SnapshotRestore,
    #[ignore = "half a minute; `make crash-points`"]
    a_snapshot_is_copied_or_not_where_the_disk_becomes_full SnapshotFork,
}

#[ignore = "half a minute; `make crash-points`"]
#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_killed_while_it_falls_asleep_sleeps_as_it_did_before() {
    kill_the_vm_at_each_point(Verb::Standby).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_killed_while_it_wakes_sleeps_on() {
    kill_the_vm_at_each_point(Verb::Restore).await;
}
