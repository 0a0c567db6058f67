//! A stranger who undoes what the agent does, as fast as the kernel lets him.

use std::{fs, path::Path, thread};

use l2isolate_lab::{
    fabric::{GATEWAY4, GATEWAY6, Node, Vm},
    netns,
    process::Identity,
};

use super::{Site, batch_anyway, kernel::FLOOR, pass, unharmed};

/// How often the stranger does all that he can do.
const ROUNDS: usize = 1000;
/// More lines than this in the log for all of it is a log that runs away.
const LOG_LINES: usize = 1000;
/// Clock ticks, of 10 ms: an agent at rest for 200 of them may use so many.
const TICKS: u64 = 50;

/// Everything that can be done to one guest's wiring, and to the hypervisor's
/// loopback, without touching another guest's. The last are
/// those at which ip(8) gives up if they fail.
fn vandalism(node: &Node, vm: &Vm) -> String {
    let (tap, v4, v6) = (&vm.tap, vm.address4, vm.address6);
    let (lo4, lo6) = (node.loopback4, node.loopback6);
    format!(
        "route del {v4}/32 metric 5\n\
         route del {v6}/128 metric 5\n\
         route del unreachable {v4}/32 metric {FLOOR}\n\
         route del unreachable {v6}/128 metric {FLOOR}\n\
         route del {lo4}/32 metric 5\n\
         route del {lo6}/128 metric 5\n\
         route replace {v4}/32 dev lo metric 5\n\
         route replace {v6}/128 dev lo metric 5 proto 12\n\
         route replace {v4}/32 dev {tap} metric 5 proto static\n\
         route replace blackhole {v4}/32 metric {FLOOR}\n\
         addr del {GATEWAY4}/32 dev {tap}\n\
         addr del {GATEWAY6}/64 dev {tap}\n\
         link set {tap} mtu 1280\n\
         link set {tap} address 02:00:00:00:66:67\n\
         neigh replace {v4} lladdr 02:00:00:00:66:66 dev {tap} nud permanent\n\
         neigh del {v4} dev {tap}\n\
         neigh replace {v6} lladdr 02:00:00:00:66:66 dev {tap} nud reachable\n\
         neigh del {v6} dev {tap}\n"
    )
}

/// Settings of a tap, wrong.
const WRONG: [(&str, &str); 8] = [
    ("ipv4/conf/TAP/proxy_arp", "0"),
    ("ipv4/conf/TAP/forwarding", "0"),
    ("ipv4/conf/TAP/rp_filter", "1"),
    ("ipv4/conf/TAP/arp_ignore", "0"),
    ("ipv4/neigh/TAP/proxy_delay", "80"),
    ("ipv6/conf/TAP/forwarding", "0"),
    ("ipv6/conf/TAP/accept_ra", "2"),
    ("ipv6/conf/TAP/disable_ipv6", "1"),
];

/// Processor time of a process, in clock ticks (utime and stime of
/// /proc/PID/stat).
fn ticks(process: Identity) -> u64 {
    let file = Path::new("/proc")
        .join(process.pid.to_string())
        .join("stat");
    let text = fs::read_to_string(file).unwrap();
    let (_, fields) = text.rsplit_once(')').unwrap();
    let fields = fields.split_ascii_whitespace().skip(11).take(2);
    fields.map(|field| field.parse::<u64>().unwrap()).sum()
}

impl Site {
    fn log_lines(&self, node: &str) -> usize {
        let log = fs::read_to_string(self.agent_files(node).log()).unwrap();
        log.lines().count()
    }
}

/// Has the stranger at one guest of `hypervisor` while others' flows run.
fn let_loose(hypervisor: &str, victim: &str, neighbours: &[(&str, &str)]) {
    let site = Site::up(1, 3);
    let node = site.fabric().node(hypervisor).unwrap();
    let vm = site.vm(victim);
    let namespace = &site.namespace(hypervisor);
    // Some settings change without a message of the kernel.
    site.look_every(hypervisor, 3);
    site.sound();
    let agent = site.agent_process(hypervisor);
    let flows = site.flows(neighbours);
    let before = (
        site.log_lines(hypervisor),
        site.count(hypervisor, "written"),
    );

    thread::scope(|scope| {
        let settings = || {
            for (path, wrong) in [WRONG; ROUNDS].iter().flatten() {
                let file = Path::new("/proc/sys/net").join(path.replace("TAP", &vm.tap));
                fs::write(file, wrong).unwrap();
            }
        };
        scope.spawn(move || netns::inside(namespace, settings).unwrap());
        let lines = vandalism(node, vm);
        for _ in 0..ROUNDS {
            batch_anyway(namespace, &lines);
        }
    });

    site.sound();
    unharmed(flows);
    assert!(agent.lives());
    let now = (
        site.log_lines(hypervisor),
        site.count(hypervisor, "written"),
    );
    let (lines, written) = (now.0 - before.0, now.1 - before.1);
    assert!(lines < LOG_LINES, "{lines} lines of log");
    // It gives way: the stranger has done some eighteen thousand things.
    assert!(written > 0 && written < 5000, "{written} written");
    let busy = ticks(agent);
    pass(2000);
    let busy = ticks(agent) - busy;
    assert!(busy < TICKS, "{busy} ticks of processor time at rest");
    site.lab.down().unwrap();
}

#[test]
fn a_stranger_undoes_it_all_beside_frr() {
    let neighbours = [("vm1-1-2", "vm1-1-3"), ("vm1-1-2", "vm2-1-1")];
    let_loose("hv1-1", "vm1-1-1", &neighbours);
}

#[test]
fn a_stranger_undoes_it_all_beside_bird() {
    let neighbours = [("vm2-1-2", "vm2-1-3"), ("vm2-1-2", "vm1-1-1")];
    let_loose("hv2-1", "vm2-1-1", &neighbours);
}
