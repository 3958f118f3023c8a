//! fanwire
fn main() {}
