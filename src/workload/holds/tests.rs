use std::sync::atomic::{AtomicI64, Ordering};

use hypeman::InstanceId;

use super::*;

/// A clock on the wall that a test sets.
#[derive(Clone, Default)]
struct Wall(Arc<AtomicI64>);

impl Wall {
    fn set(&self, second: i64) {
        self.0.store(second, Ordering::SeqCst);
    }

    fn clock(&self) -> Clock {
        let wall = self.clone();
        Arc::new(move || Timestamp::from_second(wall.0.load(Ordering::SeqCst)).unwrap())
    }
}

fn owner(id: &str) -> Owner {
    Owner {
        hypeman: "default".into(),
        id: InstanceId::parse(id).unwrap(),
    }
}

fn task(name: &str) -> TaskName {
    TaskName::parse(name).unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn config(dir: Option<&Path>) -> WorkloadConfig {
    WorkloadConfig {
        state_dir: dir.map(Into::into),
        max_holds: 2,
        max_hold: seconds(3600),
        ..WorkloadConfig::default()
    }
}

fn open(dir: Option<&Path>, wall: &Wall) -> Arc<Holds> {
    Holds::open(&config(dir), Arc::default(), wall.clock()).unwrap()
}

fn names(holds: &Holds, id: &str) -> Vec<String> {
    let all = holds.of(&owner(id)).into_iter();
    all.map(|hold| hold.task.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_beyond_a_bound_is_refused_and_a_task_that_says_more_is_none_more() {
    let (wall, one) = (Wall::default(), owner("a"));
    let holds = open(None, &wall);
    assert!(matches!(
        holds.place(&one, "web", &task("x"), seconds(3601)),
        Err(HoldError::TooLong(_))
    ));
    let (_, is_first) = holds.place(&one, "web", &task("x"), seconds(60)).unwrap();
    assert!(is_first);
    let (_, is_first) = holds.place(&one, "web", &task("y"), seconds(60)).unwrap();
    assert!(!is_first);
    assert!(matches!(
        holds.place(&one, "web", &task("z"), seconds(60)),
        Err(HoldError::TooMany(2))
    ));
    holds.place(&one, "web", &task("x"), seconds(30)).unwrap();
    // Another's tasks of the same name are another's.
    holds
        .place(&owner("b"), "api", &task("x"), seconds(10))
        .unwrap();
    assert!(holds.take_back(&one, &task("x")).unwrap());
    assert!(!holds.take_back(&one, &task("x")).unwrap());
    assert_eq!(
        (names(&holds, "a"), names(&holds, "b")),
        (vec!["y".to_owned()], vec!["x".to_owned()])
    );
    assert_eq!(holds.until(&one), Some(Instant::now() + seconds(60)));
    holds.forget(&one);
    assert_eq!((holds.until(&one), holds.all().len()), (None, 1));
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_gone_here_keeps_its_file_until_it_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let (wall, one) = (Wall::default(), owner("a"));
    let (here, there) = (open(Some(dir.path()), &wall), open(Some(dir.path()), &wall));
    here.place(&one, "web", &task("x"), seconds(60)).unwrap();
    there.refresh();
    here.forget(&one);
    assert_eq!((here.until(&one), here.count()), (None, 0));
    there.refresh();
    assert_eq!(
        names(&there, "a"),
        ["x"],
        "its control plane is another one"
    );
    wall.set(61);
    tokio::time::advance(SWEEP).await;
    here.refresh();
    let files = std::fs::read_dir(dir.path()).unwrap();
    let files = files
        .map(|entry| entry.unwrap().file_name())
        .collect::<Vec<_>>();
    assert_eq!(files, ["lock"]);
}

#[test]
fn a_directory_that_others_may_write_to_is_told_of() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    for (mode, is_told) in [(0o700, false), (0o755, false), (0o770, true), (0o707, true)] {
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let config = config(Some(dir.path()));
        assert_eq!(
            Holds::open_to_others(&config).is_some(),
            is_told,
            "{mode:o}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_hold_ends_by_whichever_clock_comes_first() {
    for is_wall in [true, false] {
        let wall = Wall::default();
        let holds = open(None, &wall);
        holds
            .place(&owner("a"), "web", &task("x"), seconds(60))
            .unwrap();
        assert!(holds.expire().is_empty() && !holds.has_ended());
        match is_wall {
            // The clock was set forwards, or the machine slept.
            true => wall.set(61),
            // It was set back.
            false => {
                wall.set(-100_000);
                tokio::time::advance(seconds(60)).await;
            }
        }
        assert!(holds.has_ended());
        assert_eq!(holds.until(&owner("a")), None);
        let ended = holds.expire();
        assert_eq!(ended.len(), 1, "{is_wall}");
        assert!(holds.owners().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_was_killed_finds_what_is_left_of_its_holds() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("state");
    assert_eq!(Holds::rehearse(&config(Some(&place))).unwrap(), [""; 0]);
    assert!(!place.exists(), "a rehearsal leaves no trace");
    let wall = Wall::default();
    let before = open(Some(&place), &wall);
    before
        .place(&owner("a"), "web", &task("long"), seconds(100))
        .unwrap();
    before
        .place(&owner("a"), "web", &task("short"), seconds(10))
        .unwrap();
    before
        .place(&owner("b"), "api", &task("gone"), seconds(10))
        .unwrap();
    // It is not told of its end.
    std::mem::forget(before);
    wall.set(50);
    let after = open(Some(&place), &wall);
    assert_eq!(names(&after, "a"), ["long"]);
    assert_eq!(&*after.all()[0].name, "web");
    // `until` is to the next millisecond.
    let left = after.until(&owner("a")).unwrap() - Instant::now();
    assert!(left >= seconds(50) && left < seconds(51), "{left:?}");
    assert_eq!(names(&after, "b"), [""; 0]);
    // A clock that was set back far makes no hold longer than it was to be.
    wall.set(-1_000_000);
    let again = open(Some(&place), &wall);
    let left = again.until(&owner("a")).unwrap() - Instant::now();
    assert!(left >= seconds(100) && left < seconds(101), "{left:?}");
    // One that ended while nobody was there is not there any more.
    wall.set(200);
    assert!(open(Some(&place), &wall).all().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_damaged_is_no_reason_not_to_start_and_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let wall = Wall::default();
    let holds = open(Some(dir.path()), &wall);
    for id in ["a", "b"] {
        holds
            .place(&owner(id), "web", &task("x"), seconds(100))
            .unwrap();
    }
    let files = std::fs::read_dir(dir.path()).unwrap().flatten();
    let file = files
        .map(|entry| entry.path())
        .find(|path| std::fs::read_to_string(path).is_ok_and(|text| text.contains("\"a\"")))
        .unwrap();
    for damage in [
        "",
        "{\"version\":1",
        "{\"version\":2,\"hypeman\":\"default\",\"instance\":\"a\",\"name\":\"\",\"holds\":[]}",
    ] {
        std::fs::write(&file, damage).unwrap();
        let warned = Holds::rehearse(&config(Some(dir.path()))).unwrap();
        assert_eq!(warned.len(), 1, "{damage}");
        let again = open(Some(dir.path()), &wall);
        assert_eq!(
            (names(&again, "a"), names(&again, "b")),
            (vec![], vec!["x".to_owned()])
        );
    }
    let again = open(Some(dir.path()), &wall);
    again
        .place(&owner("a"), "web", &task("y"), seconds(100))
        .unwrap();
    assert_eq!(names(&open(Some(dir.path()), &wall), "a"), ["y"]);
}

#[tokio::test(start_paused = true)]
async fn two_gateways_on_one_directory_lose_nothing_of_each_others() {
    let dir = tempfile::tempdir().unwrap();
    let wall = Wall::default();
    let (one, other) = (open(Some(dir.path()), &wall), open(Some(dir.path()), &wall));
    one.place(&owner("a"), "web", &task("x"), seconds(100))
        .unwrap();
    other
        .place(&owner("a"), "web", &task("y"), seconds(100))
        .unwrap();
    assert_eq!(names(&other, "a"), ["x", "y"]);
    one.refresh();
    assert_eq!(names(&one, "a"), ["x", "y"]);
    assert!(other.take_back(&owner("a"), &task("x")).unwrap());
    one.refresh();
    assert_eq!(names(&one, "a"), ["y"]);
    assert!(other.take_back(&owner("a"), &task("y")).unwrap());
    one.refresh();
    assert_eq!(one.owners(), []);
    let left = std::fs::read_dir(dir.path()).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["lock"], "what is over leaves no file");
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_could_not_be_kept_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("state");
    let wall = Wall::default();
    let holds = open(Some(&place), &wall);
    holds
        .place(&owner("a"), "web", &task("x"), seconds(10))
        .unwrap();
    std::fs::remove_dir_all(&place).unwrap();
    std::fs::write(&place, "x").unwrap();
    let refused = holds.place(&owner("a"), "web", &task("y"), seconds(10));
    assert!(matches!(refused, Err(HoldError::NotKept(_))));
    assert_eq!(names(&holds, "a"), ["x"]);
    // What is in memory ends all the same.
    wall.set(11);
    assert_eq!(holds.expire().len(), 1);
    assert_eq!(holds.owners(), []);
    std::fs::write(dir.path().join("file"), "x").unwrap();
    let wrong = config(Some(&dir.path().join("file")));
    assert!(Holds::rehearse(&wrong).is_err());
    assert!(Holds::open(&wrong, Arc::default(), wall.clock()).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_cannot_be_read_takes_no_hold_away_and_one_that_has_gone_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (place, aside) = (dir.path().join("state"), dir.path().join("aside"));
    let (wall, one) = (Wall::default(), owner("a"));
    let holds = open(Some(&place), &wall);
    holds.place(&one, "web", &task("x"), seconds(100)).unwrap();
    std::fs::rename(&place, &aside).unwrap();
    holds.refresh();
    assert_eq!(names(&holds, "a"), ["x"], "it is not there");
    std::fs::create_dir(&place).unwrap();
    holds.refresh();
    assert_eq!(names(&holds, "a"), ["x"], "it is another one");
    std::fs::remove_dir(&place).unwrap();
    holds
        .place(&owner("b"), "api", &task("y"), seconds(100))
        .unwrap();
    holds.refresh();
    assert_eq!((names(&holds, "a"), names(&holds, "b")).0, ["x"]);
    let again = open(Some(&place), &wall);
    assert_eq!((names(&again, "a"), names(&again, "b")).1, ["y"]);
    assert_eq!(names(&again, "a"), ["x"]);
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_another_process_keeps_is_waited_for_for_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let (wall, one) = (Wall::default(), owner("a"));
    let holds = open(Some(dir.path()), &wall);
    holds.place(&one, "web", &task("x"), seconds(10)).unwrap();
    let kept = std::fs::File::open(dir.path().join("lock")).unwrap();
    rustix::fs::flock(&kept, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let refused = holds.place(&one, "web", &task("y"), seconds(10));
    assert!(matches!(refused, Err(HoldError::NotKept(error))
        if error.kind() == io::ErrorKind::TimedOut));
    // It ends all the same.
    wall.set(11);
    assert_eq!(holds.expire().len(), 1);
    assert_eq!(holds.until(&one), None);
    drop(kept);
    holds.place(&one, "web", &task("y"), seconds(10)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn files_of_holds_that_have_ended_meanwhile_go() {
    let dir = tempfile::tempdir().unwrap();
    let wall = Wall::default();
    let before = open(Some(dir.path()), &wall);
    for (id, time) in [("a", 10), ("b", 100)] {
        before
            .place(&owner(id), "web", &task("x"), seconds(time))
            .unwrap();
    }
    wall.set(50);
    let files = || std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(files(), 3);
    let after = open(Some(dir.path()), &wall);
    assert_eq!(files(), 2, "the lock and one that holds");
    assert_eq!(names(&after, "b"), ["x"]);
}

#[tokio::test(start_paused = true)]
async fn what_changes_nothing_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let (wall, one) = (Wall::default(), owner("a"));
    let holds = open(Some(dir.path()), &wall);
    holds.place(&one, "web", &task("x"), seconds(100)).unwrap();
    let stamp = || {
        let file = HoldDir::open(dir.path()).unwrap().path(&one);
        crate::file_stamp::FileStamp::of(&file).unwrap()
    };
    let before = stamp();
    assert!(!holds.take_back(&one, &task("y")).unwrap());
    assert_eq!(stamp(), before);
}

#[tokio::test(start_paused = true)]
async fn an_instances_first_hold_has_room_however_many_others_have() {
    let wall = Wall::default();
    let mut holds = open(None, &wall);
    Arc::get_mut(&mut holds).unwrap().most = 1;
    for id in ["a", "b"] {
        holds
            .place(&owner(id), "web", &task("x"), seconds(100))
            .unwrap();
        let refused = holds.place(&owner(id), "web", &task("y"), seconds(100));
        assert!(matches!(refused, Err(HoldError::Full)));
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_not_put_to_sleep_while_it_is_held_and_not_held_while_it_is_put_to_sleep() {
    let dir = tempfile::tempdir().unwrap();
    let (wall, one) = (Wall::default(), owner("a"));
    let (here, other) = (open(Some(dir.path()), &wall), open(Some(dir.path()), &wall));
    // Another gateway was told.
    other.place(&one, "web", &task("x"), seconds(100)).unwrap();
    assert!(!here.prepare_sleep(&one, 1).unwrap() && !here.begin_sleep(&one, 1));
    assert!(other.take_back(&one, &task("x")).unwrap());
    // A hold comes before it begins.
    assert!(here.prepare_sleep(&one, 2).unwrap());
    here.place(&one, "web", &task("x"), seconds(100)).unwrap();
    assert!(!here.begin_sleep(&one, 2));
    assert!(here.take_back(&one, &task("x")).unwrap());
    // It has begun.
    assert!(here.prepare_sleep(&one, 3).unwrap() && here.begin_sleep(&one, 3));
    let refused = here.place(&one, "web", &task("x"), seconds(100));
    assert!(matches!(refused, Err(HoldError::Resting)));
    here.end_sleep(&one, 2);
    assert!(!here.prepare_sleep(&one, 4).unwrap(), "one at a time");
    here.end_sleep(&one, 3);
    here.place(&one, "web", &task("x"), seconds(100)).unwrap();
}
