//! Faults, under traffic, with real agents and both routing daemons.
//!
//! Each ends the same way: every kernel has what the intent asks for and no
//! more, the agents say so too, the fabric has what is announced, every VM
//! reaches every other; and flows that the fault doesn't touch lost nothing.

mod agent;
mod fabric;
mod kernel;
mod many;
mod overrun;
mod stranger;
mod taps;

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use l2isolate_lab::{
    agent::{PROGRAM, find},
    fabric::{Family, Node, Vm},
    lab::{AgentStatus, Guard, Lab, Plan, unique_name},
    matrix,
    probe::{FlowSpec, Probe, Report},
    process::{self, Identity},
    room::{self, Room},
    topology::{Mix, Role, Shape, Topology},
    wiring::Names,
};
use serde_json::{Value, json};

/// How long anything may take before it counts as never.
const LIMIT: Duration = Duration::from_secs(60);
/// The option of the agent that says how often it looks at everything.
const INTERVAL: &str = "resync_interval";
/// Packets per second of each flow.
const RATE: u32 = 200;

/// A lab with what the tests ask of it.
struct Site {
    lab: Guard,
    /// Given back last, when the namespaces have gone.
    _room: Room,
}

impl std::ops::Deref for Site {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl Site {
    /// 1 spine, 2 racks of 2 ToRs, FRR and BIRD by turns within each rack; so
    /// the first hypervisor has FRR, the second BIRD, wherever they are.
    fn up(hypervisors: usize, vms: usize) -> Self {
        Self::with(room::shared(), Mix::Mixed, hypervisors, vms)
    }

    /// The same with other daemons.
    fn with(room: Room, mix: Mix, hypervisors: usize, vms: usize) -> Self {
        let shape = Shape {
            spines: 1,
            racks: 2,
            tors: 2,
            hypervisors,
            vms,
        };
        let lab = Guard::up(Plan {
            name: unique_name("fault"),
            topology: Topology::regular(shape, mix),
            agent: Some(find().unwrap()),
            owned: true,
        })
        .unwrap();
        let site = Self { lab, _room: room };
        for node in site.hypervisors() {
            // So that what the periodic look would mend isn't taken for mended.
            site.look_every(&node.name, 3600);
        }
        site.sound();
        site
    }

    /// Starts a hypervisor's agent anew, with another time between its looks
    /// at everything.
    fn look_every(&self, node: &str, seconds: u32) {
        let config = self.agent_files(node).config();
        let text = fs::read_to_string(&config).unwrap();
        let kept = text.lines().filter(|line| !line.starts_with(INTERVAL));
        let kept: String = kept.map(|line| format!("{line}\n")).collect();
        fs::write(&config, format!("{kept}{INTERVAL} = {seconds}\n")).unwrap();
        self.kill(node, PROGRAM).unwrap();
        self.restart(node).unwrap();
    }

    fn names(&self) -> Names {
        Names::of(self.name())
    }

    fn hypervisors(&self) -> Vec<&Node> {
        self.fabric().role(Role::Hypervisor).collect()
    }

    fn vm(&self, name: &str) -> &Vm {
        self.fabric().vm(name).unwrap()
    }

    /// What the agent of a hypervisor says of itself.
    fn status(&self, node: &str) -> Value {
        match self.agent(node).unwrap() {
            Some(AgentStatus::Answers(value)) => value,
            other => json!(format!("{other:?}")),
        }
    }

    /// A number that the agent counts.
    fn count(&self, node: &str, field: &str) -> u64 {
        let status = self.status(node);
        assert!(status[field].is_u64(), "no {field}: {status}");
        status[field].as_u64().unwrap()
    }

    fn agent_process(&self, node: &str) -> Identity {
        let running = self.processes(node).unwrap();
        l2isolate_lab::agent::process_of(&running).unwrap()
    }

    /// `l2isolate diff` of a hypervisor's agent.
    fn diff(&self, node: &str) -> String {
        let output = Command::new(self.agent_binary().unwrap())
            .args(["diff", "--json", "--socket"])
            .arg(self.agent_files(node).socket())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    }

    /// Waits until a hypervisor's kernel has exactly what these VMs need, and
    /// its agent has nothing left to do.
    fn wired<'a>(&self, node: &Node, vms: impl IntoIterator<Item = &'a Vm>) {
        let vms: Vec<&Vm> = vms.into_iter().collect();
        let expected = kernel::expected(node, vms.iter().copied());
        let namespace = self.namespace(&node.name);
        self.until("equality of kernel and intent", LIMIT, || {
            let observed = kernel::observed(&namespace, vms.iter().copied())?;
            let mut wrong: Vec<String> = expected
                .difference(&observed)
                .map(|line| format!("{} lacks: {line}", node.name))
                .collect();
            let more = observed.difference(&expected);
            wrong.extend(more.map(|line| format!("{} has: {line}", node.name)));
            // Also where something is wrong: whether the agent knows.
            let diff = self.diff(&node.name);
            if diff.trim() != "[]" {
                wrong.push(format!("diff of {}: {diff}", node.name));
            }
            if self.status(&node.name)["in_sync"] != true {
                wrong.push(format!("{} isn't in sync", node.name));
            }
            Ok(wrong)
        })
        .unwrap();
    }

    /// Waits until all is as it shall be: kernels, sessions, routes, packets.
    fn sound(&self) {
        self.lab.wait(LIMIT).unwrap();
        for node in self.hypervisors() {
            self.wired(node, self.fabric().vms_on(&node.name));
        }
        for node in self.hypervisors() {
            self.announces(node, |family| self.own_prefixes(node, family).into_iter());
        }
        self.reachable();
    }

    /// Waits until the ToRs have learned exactly these prefixes from a
    /// hypervisor.
    fn announces<I: Iterator<Item = String>>(&self, node: &Node, own: impl Fn(Family) -> I) {
        for family in Family::ALL {
            let own = own(family).collect();
            self.until("announcement of what is wired", LIMIT, || {
                let mut wrong = Vec::new();
                for tor in &node.interfaces {
                    let learned = self.learned(&tor.peer, &node.name, family)?;
                    let differing = learned.symmetric_difference(&own);
                    wrong.extend(
                        differing
                            .map(|prefix| format!("{prefix} of {} at {}", node.name, tor.peer)),
                    );
                }
                Ok(wrong)
            })
            .unwrap();
        }
    }

    /// Waits until every VM reaches every other.
    fn reachable(&self) {
        self.until("reachability of every VM", LIMIT, || {
            let missing = matrix::measure(self)?.missing;
            let text = |m: &matrix::Missing| format!("{} to {} by {}", m.from, m.to, m.family);
            Ok(missing.iter().map(text).collect())
        })
        .unwrap();
    }

    /// Flows each way and of each family between these pairs of VMs.
    fn flows(&self, pairs: &[(&str, &str)]) -> Probe {
        let mut flows = Vec::new();
        for (a, b) in pairs {
            for (from, to) in [(a, b), (b, a)] {
                for family in Family::ALL {
                    let (from, to) = (self.vm(from), self.vm(to));
                    flows.push(FlowSpec { from, to, family });
                }
            }
        }
        Probe::start(self, &flows, RATE).unwrap()
    }
}

/// Lets flows run for a while.
fn pass(milliseconds: u64) {
    process::sleep(Duration::from_millis(milliseconds)).unwrap();
}

/// Ends flows that nothing may have touched.
fn unharmed(probe: Probe) {
    let report = probe.stop().unwrap();
    let sound = |r: &Report| r.sent > 0 && r.lost == 0 && r.duplicates == 0;
    assert!(sound(&report), "{report:#?}");
}

/// Feeds lines to `ip -batch` and goes on where one fails, as a stranger would
/// whose objects may be gone already. At some failures ip(8) gives up at once.
fn batch_anyway(namespace: &str, lines: &str) {
    use std::io::Write as _;
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "ip", "-netns", namespace])
        .args(["-force", "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let _ = input.write_all(lines.as_bytes());
    drop(input);
    child.wait().unwrap();
}
