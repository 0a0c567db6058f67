//! A real guest: Debian's cloud kernel under QEMU without KVM, on a tap as Nova
//! makes it, which can be sent to another QEMU while it runs.
//!
//! Needs what `scripts/guest-image` makes. A QEMU runs in its hypervisor's
//! namespace, so it goes with the lab, and dies with this process.

use std::{
    cell::Cell,
    io::{self, BufRead as _, BufReader, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use crate::{
    Error, Result,
    fabric::{GATEWAY4, GATEWAY6, VM_PREFIX4, Vm},
    netns, process,
};

/// Memory in MiB: as little as it boots with, for that is what is sent.
const MEMORY: &str = "128";
/// Between two questions for how far a migration is.
const POLL: Duration = Duration::from_millis(2);
/// How long QEMU may take for one answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest pause that QEMU may plan with, in milliseconds (its default), and how
/// fast it may send, in bytes a second.
const DOWNTIME: u64 = 300;
const BANDWIDTH: u64 = 1 << 30;

/// What the guest does: drivers, addresses, nothing.
const INIT: &str = r"#!/bin/busybox sh
/bin/busybox mkdir -p /usr/bin /sbin /tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read -r module; do insmod /modules/$module.ko; done </modules/order
ip link set lo up
echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_ra
ip link set eth0 up
ip addr add ADDRESS4 dev eth0
ip route add default via GATEWAY4
ip -6 addr add ADDRESS6/128 dev eth0
ip -6 route add default via GATEWAY6 dev eth0
while :; do sleep 1000; done
";

/// What a guest boots from, and where its QEMUs' files are.
#[derive(Debug)]
pub struct Image {
    kernel: PathBuf,
    initramfs: PathBuf,
    directory: PathBuf,
}

impl Image {
    /// Packs what this guest boots from; `from` has what `scripts/guest-image`
    /// made, `directory` is for this guest's files.
    ///
    /// # Errors
    /// A file isn't there or can't be written.
    pub fn pack(vm: &Vm, from: &Path, directory: PathBuf) -> Result<Self> {
        let (kernel, base) = (from.join("vmlinuz"), from.join("base.cpio"));
        for file in [&kernel, &base] {
            if !file.is_file() {
                return Err(Error::Program(format!(
                    "{} isn't there: scripts/guest-image {} makes it",
                    file.display(),
                    from.display()
                )));
            }
        }
        let init = INIT
            .replace("ADDRESS4", &format!("{}/{}", vm.address4, VM_PREFIX4.1))
            .replace("ADDRESS6", &vm.address6.to_string())
            .replace("GATEWAY4", &GATEWAY4.to_string())
            .replace("GATEWAY6", &GATEWAY6.to_string());
        Ok(Self {
            kernel: kernel.canonicalize().map_err(Error::file(&kernel))?,
            initramfs: initramfs(&base, &directory, &init)?,
            directory,
        })
    }
}

/// Packs an initramfs into `directory`: what the archive `base` holds, with this
/// `/init`.
///
/// # Errors
/// A file can't be read or written.
pub fn initramfs(base: &Path, directory: &Path, init: &str) -> Result<PathBuf> {
    let root = directory.join("init-root");
    std::fs::create_dir_all(&root).map_err(Error::file(&root))?;
    let path = root.join("init");
    std::fs::write(&path, init).map_err(Error::file(&path))?;
    // Archives can stand one behind the other.
    let script =
        "chmod 755 init && { cat \"$1\"; echo init | busybox cpio -o -H newc; } > ../initramfs";
    let base = base.canonicalize().map_err(Error::file(base))?;
    let packed = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(&base)
        .current_dir(&root)
        .stderr(Stdio::null())
        .status()
        .map_err(Error::io("packing an initramfs"))?;
    if !packed.success() {
        return Err(Error::Program("an initramfs can't be packed".to_owned()));
    }
    Ok(directory.join("initramfs"))
}

/// QEMU without KVM in a namespace, on a tap that is there, with `memory` MiB and
/// its console in a file. It dies with the thread that starts it.
#[must_use]
pub fn command(
    namespace: &str,
    (tap, mac): (&str, &str),
    memory: &str,
    (kernel, initramfs): (&Path, &Path),
    console: &Path,
) -> Command {
    let mut command = netns::command(namespace, "setpriv");
    command
        .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args(["-machine", "pc,accel=tcg", "-cpu", "max", "-m", memory])
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-serial", &format!("file:{}", console.display())])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .args([
            "-netdev",
            &format!("tap,id=n0,ifname={tap},script=no,downscript=no,vhost=off"),
        ])
        .args([
            "-device",
            &format!("virtio-net-pci,netdev=n0,mac={mac},romfile="),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// A QEMU with the guest, or waiting for it.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    incoming: PathBuf,
    commands: BufReader<UnixStream>,
}

impl Qemu {
    /// Starts one on a tap that is there; `waits`: for the guest from another.
    ///
    /// # Errors
    /// It can't be started, or doesn't answer.
    pub fn start(
        image: &Image,
        namespace: &str,
        vm: &Vm,
        number: usize,
        waits: bool,
    ) -> Result<Self> {
        let file = |name: &str| image.directory.join(format!("{name}{number}"));
        let (control, incoming) = (file("qmp"), file("incoming"));
        let mut command = command(
            namespace,
            (&vm.tap, &vm.mac),
            MEMORY,
            (&image.kernel, &image.initramfs),
            &file("console"),
        );
        command.args([
            "-qmp",
            &format!("unix:{},server=on,wait=off", control.display()),
        ]);
        if waits {
            command.args(["-incoming", &format!("unix:{}", incoming.display())]);
        }
        let log = file("log");
        let output = std::fs::File::create(&log).map_err(Error::file(&log))?;
        let child = command
            .stderr(output)
            .spawn()
            .map_err(Error::io("starting QEMU"))?;
        let end = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(&control) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > end => {
                    return Err(Error::io(format!("QEMU's socket {}", control.display()))(
                        error,
                    ));
                }
                Err(_) => process::sleep(Duration::from_millis(20))?,
            }
        };
        let what = || Error::io("QEMU's socket");
        stream.set_read_timeout(Some(PATIENCE)).map_err(what())?;
        let mut qemu = Self {
            child,
            incoming,
            commands: BufReader::new(stream),
        };
        qemu.ask("qmp_capabilities", json!({}), &mut nothing)?;
        Ok(qemu)
    }

    /// One command of QMP; its answer. `heard`: what QEMU tells unasked meanwhile.
    fn ask(&mut self, command: &str, arguments: Value, heard: &mut Heard<'_>) -> Result<Value> {
        let what = || Error::io(format!("QEMU's answer to {command}"));
        let line = json!({"execute": command, "arguments": arguments});
        writeln!(self.commands.get_mut(), "{line}").map_err(what())?;
        loop {
            let answer = self.line().map_err(what())?;
            tell(&answer, heard)?;
            if let Some(error) = answer.get("error") {
                return Err(Error::Program(format!("QEMU refuses {command}: {error}")));
            }
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
        }
    }

    /// One line of QMP.
    fn line(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.commands.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line).unwrap_or_default())
    }

    /// Waits for what QEMU tells unasked, but not for long.
    fn hear(&mut self, heard: &mut Heard<'_>) -> Result<()> {
        let what = || Error::io("waiting for QEMU");
        let stream = self.commands.get_ref().as_fd();
        let mut ready = [PollFd::new(stream, PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(POLL).unwrap_or(PollTimeout::ZERO);
        let told = !self.commands.buffer().is_empty()
            || poll(&mut ready, patience).map_err(|e| what()(e.into()))? > 0;
        match told {
            true => tell(&self.line().map_err(what())?, heard),
            false => Ok(()),
        }
    }

    /// Sends the guest to another QEMU, which goes on with it, and ends this one, as
    /// libvirt does. Gives for how long QEMU says that the guest was paused.
    /// `stopped` is done once, when it has stopped here.
    ///
    /// # Errors
    /// QEMU or `stopped` fails, or QEMU isn't done in time.
    pub fn send_to(
        mut self,
        other: &Self,
        stopped: impl FnOnce() -> Result<()>,
    ) -> Result<Duration> {
        let mut stopped = Some(stopped);
        // As soon as QEMU says so, which may be long before it answers: it doesn't while
        // it sends the rest.
        let mut heard = |event: &str, _| match stopped.take_if(|_| event == "STOP") {
            Some(stopped) => stopped(),
            None => Ok(()),
        };
        let limits = json!({"max-bandwidth": BANDWIDTH, "downtime-limit": DOWNTIME});
        self.ask("migrate-set-parameters", limits, &mut heard)?;
        let uri = format!("unix:{}", other.incoming.display());
        self.ask("migrate", json!({ "uri": uri }), &mut heard)?;
        let end = Instant::now() + PATIENCE;
        let paused = loop {
            let now = self.ask("query-migrate", json!({}), &mut heard)?;
            match now.get("status").and_then(Value::as_str) {
                Some("completed") => break now.get("downtime").and_then(Value::as_u64),
                Some("failed" | "cancelled") => {
                    return Err(Error::Program(format!("QEMU's migration: {now}")));
                }
                _ if Instant::now() > end => {
                    return Err(Error::Program(format!(
                        "QEMU's migration takes long: {now}"
                    )));
                }
                _ => self.hear(&mut heard)?,
            }
        };
        self.end()?;
        Ok(Duration::from_millis(paused.unwrap_or_default()))
    }

    /// Stops the guest for so long, and has it go on here. Gives how long QEMU says
    /// that it was stopped.
    ///
    /// # Errors
    /// QEMU refuses, or doesn't say.
    pub fn pause(&mut self, time: Duration) -> Result<Duration> {
        let (stopped, resumed) = (Cell::new(None), Cell::new(None));
        let mut heard = |event: &str, at| {
            match event {
                // Whatever was told before is of an earlier time.
                "STOP" => {
                    stopped.set(Some(at));
                    resumed.set(None);
                }
                "RESUME" => resumed.set(Some(at)),
                _ => {}
            }
            Ok(())
        };
        self.ask("stop", json!({}), &mut heard)?;
        process::sleep(time)?;
        self.ask("cont", json!({}), &mut heard)?;
        let end = Instant::now() + PATIENCE;
        while resumed.get().is_none() && Instant::now() < end {
            self.hear(&mut heard)?;
        }
        let times = stopped.get().zip(resumed.get());
        let paused = times.map(|(stopped, resumed)| resumed.saturating_sub(stopped));
        paused.ok_or_else(|| Error::Program("QEMU doesn't say when it stopped".to_owned()))
    }

    /// Ends it; its tap loses its carrier.
    ///
    /// # Errors
    /// It can't be waited for.
    pub fn end(mut self) -> Result<()> {
        let _ = self.child.kill();
        self.child.wait().map(drop).map_err(Error::io("QEMU's end"))
    }
}

/// Who is told of an event of QMP, and when it was, by QEMU's clock.
type Heard<'a> = dyn FnMut(&str, Duration) -> Result<()> + 'a;

fn nothing(_: &str, _: Duration) -> Result<()> {
    Ok(())
}

/// Passes on what is an event.
fn tell(said: &Value, heard: &mut Heard<'_>) -> Result<()> {
    let part = |path: &str| {
        said.pointer(path)
            .and_then(Value::as_u64)
            .unwrap_or_default()
    };
    let at = Duration::from_secs(part("/timestamp/seconds"))
        + Duration::from_micros(part("/timestamp/microseconds"));
    match said.get("event").and_then(Value::as_str) {
        Some(event) => heard(event, at),
        None => Ok(()),
    }
}
