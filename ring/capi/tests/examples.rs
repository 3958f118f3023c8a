//! Do the examples do what they say, with either library, and do the handles stand wrong use?

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

/// Where the libraries are, built.
static LIBRARIES: LazyLock<PathBuf> = LazyLock::new(|| {
    let program = std::env::current_exe().unwrap();
    let profile = program.parent().unwrap().parent().unwrap();
    let target = profile.parent().unwrap();
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "fanwire-ring-capi"])
        .current_dir(package())
        .env("CARGO_TARGET_DIR", target)
        .status()
        .unwrap();
    assert!(built.success());
    profile.to_owned()
});

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {text}");
    output
}

/// Compiles an example with all warnings as errors, and returns the program.
fn compiled(compiler: &str, source: &Path, is_static: bool) -> PathBuf {
    let name = source.file_stem().unwrap().to_str().unwrap();
    let program = scratch("examples").join(format!("{name}-{is_static}"));
    let libraries = &*LIBRARIES;
    let mut command = Command::new(compiler);
    command
        .args(["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(source)
        .arg("-I")
        .arg(package().join("include"));
    if compiler == "c++" {
        command.arg("-std=c++17");
    }
    if is_static {
        command.arg(libraries.join("libfanwire_ring.a"));
    } else {
        command
            .arg(libraries.join("libfanwire_ring.so"))
            .arg(format!("-Wl,-rpath,{}", libraries.display()));
    }
    run(command.args(["-lpthread", "-ldl", "-lm"]));
    program
}

fn example(name: &str) -> PathBuf {
    package().join("examples").join(name)
}

fn says(program: &mut Command, expected: &str) {
    let output = run(program);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(expected), "{text}");
}

#[test]
fn threads_in_c_receive_every_record_in_order() {
    for is_static in [false, true] {
        let program = compiled("cc", &example("threads.c"), is_static);
        says(
            &mut Command::new(program),
            "2 readers received 100000 records in order",
        );
    }
}

#[test]
fn a_process_in_c_receives_what_another_one_writes() {
    let program = compiled("cc", &example("processes.c"), false);
    let socket = scratch("sockets").join("c.socket");
    says(
        Command::new(program).arg(&socket),
        "received 10000 records of another process, which ended with 0",
    );
    assert!(!socket.exists(), "the listener takes its socket away");
}

#[test]
fn cpp_frees_and_throws_and_an_observer_counts_what_it_missed() {
    let program = compiled("c++", &example("raii.cpp"), false);
    says(&mut Command::new(program), "wrong 0");
}

#[test]
fn wrong_arguments_are_answers() {
    let source = package().join("tests/wrong_arguments.c");
    let program = compiled("cc", &source, true);
    says(
        &mut Command::new(program),
        "all wrong arguments were answered",
    );
}
