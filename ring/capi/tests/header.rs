//! Is the header that is handed out the one that the sources make?
//!
//! With `UPDATE=1` in the environment it is written anew.

use std::path::Path;

#[test]
fn the_header_says_what_the_sources_do() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(package.join("cbindgen.toml")).unwrap();
    let made = cbindgen::Builder::new()
        .with_crate(package)
        .with_config(config)
        .generate()
        .unwrap();
    let mut header = Vec::new();
    made.write(&mut header);
    let path = package.join("include/fanwire_ring.h");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &header).unwrap();
    }
    let committed = std::fs::read(&path).unwrap();
    assert!(
        committed == header,
        "include/fanwire_ring.h is old: UPDATE=1 cargo test -p fanwire-ring-capi --test header"
    );
}
