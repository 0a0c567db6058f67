//! The metadata proxy under load: a hundred VMs of one hypervisor ask at once,
//! each request on a connection of its own, half of the VMs by IPv6; the proxy
//! asks a stub of Nova, which checks every signature.
//!
//! Times are the VMs': from before connect(2) until the answer is there whole.
//! An answer that isn't Nova's ends the bench. What can break it: a machine
//! that does something else; VMs, proxy and stub share its processors.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Barrier, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::net::if_::if_nametoindex;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    Error, Result,
    bench::stats,
    fabric::Vm,
    lab::{Guard, Plan, progress, unique_name},
    netns,
    nova::{self, Nova},
    process::{self, Identity},
    state::replace,
    topology::{Mix, Role, Shape, Topology},
};

/// VMs of the hypervisor.
const VMS: usize = 100;
/// How long it is measured, in so many parts; before that it runs itself warm.
const PARTS: usize = 5;
const PART: Duration = Duration::from_secs(2);
const WARM_UP: Duration = Duration::from_secs(1);
/// How long the fabric may take to come together, and the proxy to listen.
const CONVERGENCE: Duration = Duration::from_secs(60);
/// Nothing that goes well takes so long.
const LIMIT: Duration = Duration::from_secs(10);
/// What a VM asks for.
const REQUEST: &[u8] = b"GET /openstack/latest/meta_data.json HTTP/1.1\r\n\
    Host: 169.254.169.254\r\nUser-Agent: bench\r\nAccept: */*\r\nConnection: close\r\n\r\n";
const SECRET: &str = "bench";
/// The user that the proxy becomes.
const USER: &str = "nobody";

/// What is printed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Requests answered in a second, of all VMs.
    pub metadata_rps: f64,
    /// How long one took.
    pub metadata_ms: Percentiles,
    /// The proxy's largest resident size.
    pub metadata_rss_mib: f64,
    /// How much larger that was after the last part than after the first.
    pub metadata_rss_growth_mib: f64,
}

/// Median and the slowest but one in a hundred, in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
}

/// Measures.
///
/// # Errors
/// The lab can't be built, or a VM doesn't get its answer.
pub(super) fn run(agent: &Path) -> Result<Report> {
    let shape = Shape {
        spines: 1,
        racks: 1,
        tors: 1,
        hypervisors: 1,
        vms: VMS,
    };
    progress(&format!("metadata: a lab with {VMS} VMs of one hypervisor"));
    let lab = Guard::up(Plan {
        name: unique_name("bench"),
        topology: Topology::regular(shape, Mix::Bird),
        agent: Some(agent.to_owned()),
        owned: true,
    })?;
    lab.wait(CONVERGENCE)?;
    let hypervisor = lab.fabric().role(Role::Hypervisor).next();
    let hypervisor = hypervisor.ok_or_else(|| wrong("the lab has no hypervisor"))?;
    let namespace = lab.namespace(&hypervisor.name);
    let vms: Vec<Vm> = lab.fabric().vms_on(&hypervisor.name).cloned().collect();
    let options = nova::Options {
        secret: SECRET.to_owned(),
        ..nova::Options::default()
    };
    let any = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    let nova = Nova::start(&namespace, any, options)?;
    // A map of the bench's own: the agent's is for its proxy's user alone.
    let directory = lab.agent_files(&hypervisor.name).state();
    let directory = directory.with_file_name("bench-metadata");
    let proxy = start_proxy(agent, &namespace, &directory, &vms, nova.address)?;
    let guests: Vec<(String, IpAddr)> = (vms.iter().enumerate())
        .map(|(place, vm)| (lab.namespace(&vm.name), asked(place)))
        .collect();
    let result = load(&guests, proxy);
    proxy.signal(nix::sys::signal::Signal::SIGTERM);
    let report = result?;
    lab.down()?;
    Ok(report)
}

fn wrong(words: &str) -> Error {
    Error::Program(words.to_owned())
}

/// Every other VM asks by IPv6.
fn asked(place: usize) -> IpAddr {
    if place.is_multiple_of(2) {
        Ipv4Addr::new(169, 254, 169, 254).into()
    } else {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe).into()
    }
}

/// Starts the proxy in the hypervisor, with the map of its taps.
fn start_proxy(
    program: &Path,
    namespace: &str,
    directory: &PathBuf,
    vms: &[Vm],
    nova: SocketAddr,
) -> Result<Identity> {
    std::fs::create_dir(directory).map_err(Error::file(directory))?;
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory, open).map_err(Error::file(directory))?;
    for vm in vms {
        let index = netns::inside(namespace, || if_nametoindex(vm.tap.as_str()))?;
        let index = index.map_err(Error::errno(format!("looking for {}", vm.tap)))?;
        let path = directory.join(format!("{}.json", vm.tap));
        replace(&path, &entry(vm, index).to_string())?;
    }
    let config = directory.with_file_name("metadata.ini");
    let text = format!(
        "[DEFAULT]\nnova_metadata_host = {nova}\nmetadata_proxy_shared_secret = {SECRET}\n\
         [l2isolate]\nmetadata_source = nova\nmetadata_user = {USER}\nmetadata_directory = {}\n",
        directory.display()
    );
    replace(&config, &text)?;
    let mut command = netns::command(namespace, program);
    command.args(["metadata", "--config-file"]).arg(&config);
    let pid = process::start(command, &directory.with_file_name("metadata.log"))?;
    Identity::of(pid).ok_or_else(|| wrong("the metadata proxy has ended; see its log"))
}

/// A tap's entry of the port map, as `docs/metadata.md` has it.
fn entry(vm: &Vm, index: u32) -> Value {
    let network = |address: IpAddr, cidr: &str| json!({"subnet": "bench", "address": address, "cidr": cidr, "method": "static"});
    json!({
        "version": 1, "tap": vm.tap, "index": index, "port": vm.port, "mac": vm.mac, "mtu": 1500,
        "instance": vm.port, "project": "bench", "hostname": vm.name,
        "networks": [network(vm.address4.into(), "10.252.0.0/16"), network(vm.address6.into(), "2001:db8::/32")],
    })
}

/// All VMs ask, one request after the other, until all parts are done.
fn load(guests: &[(String, IpAddr)], proxy: Identity) -> Result<Report> {
    let (started, measuring, done) = (
        Barrier::new(guests.len() + 1),
        RwLock::new(None::<Instant>),
        AtomicBool::new(false),
    );
    let guest = |namespace: &str, address: IpAddr| -> Result<Vec<Duration>> {
        let serve = || -> Result<Vec<Duration>> {
            let ready = wait_for(address);
            started.wait();
            ready?;
            let mut times = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let time = ask(address)?;
                let since = *measuring.read().unwrap_or_else(PoisonError::into_inner);
                if since.is_some_and(|since| since.elapsed() >= time) {
                    times.push(time);
                }
            }
            Ok(times)
        };
        netns::inside(namespace, serve)?
    };
    thread::scope(|scope| {
        let guest = &guest;
        let threads: Vec<_> = guests
            .iter()
            .map(|(namespace, address)| scope.spawn(move || guest(namespace, *address)))
            .collect();
        started.wait();
        let mut sizes = Vec::new();
        let mut measure = || -> Result<Duration> {
            process::sleep(WARM_UP)?;
            let since = Instant::now();
            *measuring.write().unwrap_or_else(PoisonError::into_inner) = Some(since);
            for _ in 0..PARTS {
                process::sleep(PART)?;
                sizes.push(resident(proxy)?);
            }
            Ok(since.elapsed())
        };
        let measured = measure();
        done.store(true, Ordering::Relaxed);
        let mut times = Vec::new();
        for thread in threads {
            match thread.join() {
                Ok(result) => times.extend(result?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        let time = measured?;
        progress(&format!(
            "metadata: {} requests in {:.1} s, resident {sizes:.1?} MiB",
            times.len(),
            time.as_secs_f64()
        ));
        let largest = sizes.iter().copied().fold(0.0, f64::max);
        let growth = sizes
            .last()
            .zip(sizes.first())
            .map(|(last, first)| last - first);
        let percentile = |percent| stats::percentile(&times, percent).map(stats::ms);
        let count = times.len() as f64;
        Ok(Report {
            metadata_rps: stats::rounded(count / time.as_secs_f64()),
            metadata_ms: Percentiles {
                p50: percentile(50),
                p99: percentile(99),
            },
            metadata_rss_mib: stats::rounded(largest),
            metadata_rss_growth_mib: stats::rounded(growth.unwrap_or_default()),
        })
    })
}

/// Waits until the proxy listens.
fn wait_for(address: IpAddr) -> Result<()> {
    let end = Instant::now() + CONVERGENCE;
    loop {
        match ask(address) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => process::sleep(Duration::from_millis(50))?,
        }
    }
}

/// One request on a connection of its own; how long it took.
fn ask(address: IpAddr) -> Result<Duration> {
    let failed = || Error::io(format!("asking {address} for metadata"));
    let address = match address {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), 80),
        IpAddr::V6(v6) => {
            let device = if_nametoindex("eth0").map_err(Error::errno("looking for eth0"))?;
            SocketAddrV6::new(v6, 80, 0, device).into()
        }
    };
    let started = Instant::now();
    let mut stream = TcpStream::connect_timeout(&address, LIMIT).map_err(failed())?;
    stream.set_read_timeout(Some(LIMIT)).map_err(failed())?;
    stream.write_all(REQUEST).map_err(failed())?;
    let mut answer = Vec::with_capacity(1024);
    stream.read_to_end(&mut answer).map_err(failed())?;
    let time = started.elapsed();
    if answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"}") {
        return Ok(time);
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    Err(Error::Program(format!(
        "this isn't Nova's answer: {answer}"
    )))
}

/// A process's resident size in MiB.
fn resident(process: Identity) -> Result<f64> {
    let path = PathBuf::from(format!("/proc/{}/status", process.pid));
    let status = std::fs::read_to_string(&path).map_err(Error::file(&path))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0)
        .ok_or_else(|| wrong("the metadata proxy has ended; see its log"))
}
