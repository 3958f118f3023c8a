//! Configuration files.
//!
//! An input is the text of one. Whatever it says, it is read or rejected with a reason; what is read can be
//! shown.

use fanwire::Server;
use std::path::PathBuf;

/// Reads the file that the input says.
pub fn read(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let file = std::env::temp_dir().join(format!("fanwire-fuzz-{}.toml", file_number()));
    std::fs::write(&file, text).expect("the folder for temporary files takes files");
    let configured = Server::builder().config_file(&file).configure();
    remove(file);
    match configured {
        Ok(configured) => assert!(!configured.report().to_string().is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn remove(file: PathBuf) {
    // What is left there is small.
    let _ = std::fs::remove_file(file);
}

/// Another one for each process and thread.
fn file_number() -> String {
    format!("{}-{:?}", std::process::id(), std::thread::current().id())
}
