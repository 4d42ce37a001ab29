//! Every interleaving of the admission counter, under loom: no place stays free while a request
//! waits for it, and the limit is never passed.
//!
//! The file is the real one; only its atomics are loom's.

#[allow(dead_code, reason = "the model needs a part of it")]
#[path = "../../src/hold/admission_counter.rs"]
mod admission_counter;

mod sync {
    pub(super) use loom::sync::atomic::{AtomicUsize, Ordering};
}

use admission_counter::AdmissionCounter;
use loom::sync::{Arc, Mutex};
use loom::thread;

/// The gate's protocol around the counter, without time: a queue of at most one, under a lock.
struct Gate {
    admission_counter: AdmissionCounter,
    waiting: Mutex<Queue>,
    limit: usize,
}

#[derive(Default)]
struct Queue {
    waits: bool,
    let_in: bool,
}

impl Gate {
    fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            admission_counter: AdmissionCounter::new(),
            waiting: Mutex::new(Queue::default()),
            limit,
        })
    }

    fn let_in(&self, queue: &mut Queue) {
        if queue.waits && self.admission_counter.inside() < self.limit {
            self.admission_counter.enter();
            (queue.waits, queue.let_in) = (false, true);
        }
        if !queue.waits {
            self.admission_counter.dismiss_crowd();
        }
    }

    fn join(&self) {
        let mut queue = self.waiting.lock().unwrap();
        self.admission_counter.announce_crowd();
        queue.waits = true;
        self.let_in(&mut queue);
    }

    fn leave(&self) {
        if self.admission_counter.leave() {
            self.let_in(&mut self.waiting.lock().unwrap());
        }
    }
}

#[test]
fn who_waits_is_let_in_when_the_last_one_leaves() {
    loom::model(|| {
        let gate = Gate::new(1);
        assert!(gate.admission_counter.try_enter(1));
        let leaver = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || gate.leave())
        };
        gate.join();
        leaver.join().unwrap();
        let queue = gate.waiting.lock().unwrap();
        assert!(queue.let_in && !queue.waits);
        assert_eq!(gate.admission_counter.inside(), 1);
    });
}

#[test]
fn nobody_passes_who_waits_and_the_limit_holds() {
    loom::model(|| {
        let gate = Gate::new(1);
        assert!(gate.admission_counter.try_enter(1));
        let passer = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                let entered = gate.admission_counter.try_enter(1);
                assert!(gate.admission_counter.inside() <= 2);
                if entered {
                    gate.leave();
                }
            })
        };
        let leaver = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || gate.leave())
        };
        gate.join();
        passer.join().unwrap();
        leaver.join().unwrap();
        assert!(gate.waiting.lock().unwrap().let_in);
        assert_eq!(gate.admission_counter.inside(), 1);
    });
}
