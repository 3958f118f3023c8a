//! A disk that loses its power, and one that fails: ext4 on a loop device, mounted in a mount namespace
//! of its own, which ends with the process.

use crate::child;
use crate::harness::Directory;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Output};

const ROUNDS: u64 = 8;

/// Whether this user can mount a loop device; root always can.
fn may_mount() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("not tested: only root mounts loop devices");
    }
    is_root
}

fn make_file_system(image: &Path, mebibytes: u64) {
    fs::File::create(image)
        .and_then(|file| file.set_len(mebibytes << 20))
        .unwrap();
    let made = Command::new("mkfs.ext4")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .args(["-q", "-F", "-J", "size=4"])
        .arg(image)
        .status();
    assert!(made.unwrap().success());
}

/// Runs a test of `child.rs` with the file system of an image at the directory.
fn on_image(test: &str, image: &Path, directory: &Directory, run: u64) -> Child {
    fs::create_dir_all(&directory.0).unwrap();
    let image = image.display();
    let script = format!("mount -o loop {image} \"$0\" && exec \"$@\"");
    child::spawn(
        test,
        &["unshare", "-m", "sh", "-c", &script],
        directory,
        run,
    )
}

fn passed(child: Child) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&stdout).into_owned();
    let errors = String::from_utf8_lossy(&stderr);
    assert!(
        status.success() && said.contains("passed"),
        "{said}{errors}"
    );
    said
}

/// The disk as it is at one moment: the process that writes to it is stopped, and what the kernel still
/// writes shows in the second look.
fn snapshot(image: &Path, copy: &Path) {
    for _ in 0..20 {
        fs::copy(image, copy).unwrap();
        if fs::read(image).unwrap() == fs::read(copy).unwrap() {
            return;
        }
    }
    panic!("the disk is written although the process is stopped");
}

#[test]
fn what_was_acknowledged_survives_a_loss_of_power() {
    if !may_mount() {
        return;
    }
    let folder = Directory::new("power");
    fs::create_dir(&folder.0).unwrap();
    let [image, copy] = ["image", "copy"].map(|name| folder.0.join(name));
    let mounted = Directory(folder.0.join("mounted"));
    let mut acknowledged_total = 0;
    for run in 1..=ROUNDS {
        make_file_system(&image, 32);
        let mut child = on_image("writes_until_killed", &image, &mounted, run);
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut lines = String::new();
        let wanted = usize::try_from(40 * run).unwrap();
        while lines.lines().filter(|it| it.starts_with("ack ")).count() < wanted {
            let read = output.read_line(&mut lines).unwrap();
            if read == 0 {
                let mut errors = String::new();
                let mut stderr = child.stderr.take().unwrap();
                stderr.read_to_string(&mut errors).unwrap();
                panic!("round {run}: {lines}{errors}");
            }
        }
        let id = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(id, rustix::process::Signal::STOP).unwrap();
        snapshot(&image, &copy);
        child.kill().unwrap();
        child.wait().unwrap();
        // What was acknowledged before it was stopped, and so before the snapshot.
        output.read_to_string(&mut lines).unwrap();
        let whole = lines.rsplit_once('\n').map_or("", |it| it.0);
        let acknowledged = whole.lines().filter_map(|line| line.strip_prefix("ack "));
        let acknowledged: Vec<_> = acknowledged.collect();
        fs::write(folder.0.join("acknowledged"), acknowledged.join("\n")).unwrap();
        acknowledged_total += acknowledged.len();
        passed(on_image(
            "reads_after_a_loss_of_power",
            &copy,
            &mounted,
            run,
        ));
    }
    println!("{ROUNDS} losses of power, {acknowledged_total} acknowledged");
}

/// The disk is an image on a tmpfs that is smaller than the image says: when it is full, the disk fails.
#[test]
fn a_disk_that_fails_is_visible_and_nothing_acknowledged_is_lost() {
    if !may_mount() {
        return;
    }
    // Writes go to the disk at once, and fail; or to the page cache, and fail when they are synced.
    for (run, options) in [(1, "loop"), (2, "loop,data=journal")] {
        let directory = Directory::new("failing");
        fs::create_dir(&directory.0).unwrap();
        let script = format!(
            "set -e; mount -t tmpfs -o size=24m none \"$0\"; cd \"$0\"; mkdir mounted; \
            truncate -s 256m image; mkfs.ext4 -q -F -J size=4 image; \
            mount -o {options} image mounted; exec \"$@\""
        );
        let script = ["unshare", "-m", "sh", "-c", &script];
        let child = child::spawn("has_a_disk_that_fails", &script, &directory, run);
        println!("{options}: {}", passed(child));
    }
}
