//! What is reported when, and in how many calls.

use super::*;

const TAP: &str = "tap00000001-00";

struct Rig {
    devices: Devices,
    now: Instant,
}

fn id() -> PortId {
    "00000001-0000-4000-8000-000000000001".parse().unwrap()
}

impl Rig {
    fn new(binding: &str, status: Status) -> Self {
        let mut rig = Self {
            devices: Devices::default(),
            now: Instant::now(),
        };
        rig.port(binding, true);
        rig.status(status);
        rig
    }

    fn port(&mut self, binding: &str, admin_up: bool) {
        let document = serde_json::json!({
            "id": id(), "mac": "fa:16:3e:00:00:01", "admin_state_up": admin_up,
            "binding": {"state": binding},
        });
        let port: Port = serde_json::from_value(document).unwrap();
        self.devices.set_port(&id(), Some(&port));
    }

    fn status(&mut self, status: Status) {
        let reports = self.devices.reports();
        self.devices
            .set_statuses(&BTreeMap::from([(id(), status)]), reports);
    }

    /// The tap with that index, wired or not; none: gone.
    fn tap(&mut self, tap: Option<(u32, bool)>) {
        let state = tap.map(|(index, wired)| TapState {
            index,
            port: Some(id()),
            wired,
        });
        self.devices.tell(vec![(TAP.parse().unwrap(), state)]);
    }

    /// What is reported, and taken: `+` up, `-` down.
    fn reported(&mut self) -> String {
        let mut all = String::new();
        while let Some(report) = self.devices.next(self.now) {
            all.push_str(if report.up.is_empty() { "-" } else { "+" });
            self.devices.done(self.now, &report, &BTreeSet::new());
        }
        all
    }
}

#[test]
fn a_boot_and_an_end() {
    let mut rig = Rig::new("active", Status::Down);
    assert_eq!(rig.reported(), "");
    rig.tap(Some((3, false)));
    assert_eq!(rig.reported(), "", "not wired yet");
    rig.tap(Some((3, true)));
    assert_eq!(rig.reported(), "+");
    assert_eq!(rig.reported(), "", "said once");
    rig.tap(None);
    assert_eq!(rig.reported(), "-");
    assert_eq!(rig.devices.unreported(), 0);
}

/// Whatever order things become known in at a start, a port that is up and
/// stays up is not spoken of; one that isn't there any more is.
#[test]
fn a_restart_flaps_nothing() {
    let mut rig = Rig::new("active", Status::Active);
    assert_eq!(rig.reported(), "", "taps aren't known yet");
    rig.tap(Some((3, false)));
    rig.tap(Some((3, true)));
    assert_eq!(rig.reported(), "");
    let mut rig = Rig::new("active", Status::Active);
    rig.devices.tell(Vec::new());
    assert_eq!(rig.reported(), "-");
}

/// A hard reboot: the tap is another device, maybe before anybody saw that
/// the old one had gone. Nova waits for the port to be up again.
#[test]
fn another_device_is_down_and_up() {
    let mut rig = Rig::new("active", Status::Down);
    rig.tap(Some((3, true)));
    assert_eq!(rig.reported(), "+");
    rig.tap(Some((4, true)));
    assert_eq!(rig.reported(), "-+");
}

/// Neutron's word counts: a port that it takes for down (an update of its
/// binding does that) is reported again; but not by what it said before it
/// had the report.
#[test]
fn neutrons_word_counts() {
    let mut rig = Rig::new("outgoing", Status::Active);
    rig.tap(Some((3, true)));
    assert_eq!(rig.reported(), "");
    rig.status(Status::Down);
    let before = rig.devices.reports();
    assert_eq!(rig.reported(), "+");
    let stale = BTreeMap::from([(id(), Status::Down)]);
    rig.devices.set_statuses(&stale, before);
    assert_eq!(rig.reported(), "");
    rig.status(Status::Build);
    assert_eq!(rig.reported(), "+");
}

/// The destination of a live migration: once for each tap, whatever the
/// status, and nothing when it goes; after the switch by the status.
#[test]
fn a_port_that_is_expected() {
    let mut rig = Rig::new("incoming", Status::Active);
    rig.devices.tell(Vec::new());
    assert_eq!(rig.reported(), "");
    rig.tap(Some((3, true)));
    assert_eq!(rig.reported(), "+");
    rig.status(Status::Down);
    assert_eq!(rig.reported(), "");
    rig.tap(None);
    assert_eq!(rig.reported(), "");
    rig.tap(Some((4, true)));
    assert_eq!(rig.reported(), "+");
    rig.port("active", true);
    rig.status(Status::Down);
    assert_eq!(rig.reported(), "+");
    // The tap, the port with its status, the wiring: as they come at a boot.
    let mut rig = Rig {
        devices: Devices::default(),
        now: Instant::now(),
    };
    rig.tap(Some((2, false)));
    rig.port("incoming", true);
    rig.status(Status::Active);
    rig.tap(Some((2, true)));
    assert_eq!(rig.reported(), "+");
}

#[test]
fn administratively_down_is_down() {
    let mut rig = Rig::new("active", Status::Active);
    rig.tap(Some((3, true)));
    rig.port("active", false);
    assert_eq!(rig.reported(), "-");
    rig.port("active", true);
    assert_eq!(rig.reported(), "+");
}

/// What Neutron refuses is said again later, and so is what didn't reach it:
/// sooner, and at once with another connection.
#[test]
fn failures_are_tried_again() {
    let mut rig = Rig::new("active", Status::Down);
    rig.tap(Some((3, true)));
    for failed in 0..4 {
        let report = rig.devices.next(rig.now).unwrap();
        rig.devices.failed(rig.now, &report, 1.0);
        assert_eq!(rig.devices.next(rig.now), None, "it waits");
        assert_eq!(rig.devices.due_at(), Some(rig.now + FAILED * (1 << failed)));
        rig.now = rig.devices.due_at().unwrap();
    }
    let report = rig.devices.next(rig.now).unwrap();
    rig.devices.failed(rig.now, &report, 1.0);
    rig.devices.reconnected();
    let report = rig.devices.next(rig.now).unwrap();
    rig.devices.done(rig.now, &report, &BTreeSet::from([id()]));
    rig.devices.reconnected();
    assert_eq!(rig.reported(), "");
    assert_eq!(rig.devices.refused().count(), 1);
    let at = rig.devices.due_at().unwrap();
    rig.now = at;
    assert_eq!(rig.reported(), "+");
    assert_eq!(rig.devices.refused().count(), 0);
}

/// What is said of a port has to arrive in order: nothing more is said of it
/// before the last word is answered, whatever becomes of its tap.
#[test]
fn a_port_is_in_one_call_at_a_time() {
    let mut rig = Rig::new("active", Status::Down);
    rig.tap(Some((3, true)));
    let up = rig.devices.next(rig.now).unwrap();
    rig.tap(None);
    assert_eq!(rig.devices.next(rig.now), None);
    rig.devices.set_port(&id(), None);
    rig.port("active", true);
    rig.status(Status::Down);
    assert_eq!(rig.devices.next(rig.now), None);
    rig.devices.done(rig.now, &up, &BTreeSet::new());
    let down = rig.devices.next(rig.now).unwrap();
    rig.tap(Some((4, true)));
    assert_eq!(rig.devices.next(rig.now), None);
    rig.devices.failed(rig.now, &down, 1.0);
    // What failed may have been taken or not.
    rig.now += FAILED;
    assert_eq!(rig.reported(), "-+");
}

/// The devices of so many ports that are to be reported up.
fn many(ports: usize) -> Devices {
    let mut devices = Devices::default();
    let mut taps = Vec::new();
    let mut statuses = BTreeMap::new();
    for number in 0..ports {
        let id: PortId = format!("{number:08x}-0000-4000-8000-000000000001")
            .parse()
            .unwrap();
        let document = serde_json::json!({"id": id, "mac": "fa:16:3e:00:00:01"});
        let port: Port = serde_json::from_value(document).unwrap();
        devices.set_port(&id, Some(&port));
        statuses.insert(id.clone(), Status::Down);
        taps.push((
            port.tap,
            Some(TapState {
                index: 9,
                port: Some(id),
                wired: true,
            }),
        ));
    }
    devices.set_statuses(&statuses, 0);
    devices.tell(taps);
    devices
}

#[test]
fn a_call_reports_so_many() {
    let mut devices = many(BATCH + 5);
    // Some strays among them.
    let stray = TapState {
        index: 8,
        port: None,
        wired: false,
    };
    let strays = ["tapdeadbeef-00", "eth0"];
    devices.tell(
        strays
            .map(|name| (name.parse().unwrap(), Some(stray.clone())))
            .into(),
    );
    let now = Instant::now();
    assert_eq!(devices.next(now).unwrap().up.len(), BATCH);
    assert_eq!(devices.next(now).unwrap().up.len(), 5);
    assert_eq!(devices.strays().count(), 2);
}

/// A server that is slow, or a call that fails, costs others nothing; and no
/// host has all of the server's workers.
#[test]
fn so_many_calls_are_under_way() {
    let mut devices = many(BATCH * (CALLS + 2));
    let now = Instant::now();
    let mut calls: Vec<Report> = (0..CALLS).map(|_| devices.next(now).unwrap()).collect();
    assert_eq!(devices.next(now), None);
    assert_eq!(devices.due_at(), None, "nothing but an answer helps");
    devices.failed(now, &calls.remove(0), 1.0);
    let next = devices.next(now).unwrap();
    assert!(
        calls
            .iter()
            .all(|call| call.up.keys().all(|id| !next.up.contains_key(id)))
    );
    devices.done(now, &next, &BTreeSet::new());
    for call in calls {
        devices.done(now, &call, &BTreeSet::new());
    }
    let last = devices.next(now).unwrap();
    devices.done(now, &last, &BTreeSet::new());
    assert_eq!(devices.next(now), None);
    let later = now + FAILED;
    assert_eq!(devices.due_at(), Some(later));
    assert_eq!(devices.next(later).unwrap().up.len(), BATCH);
}
