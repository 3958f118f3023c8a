//! fanwire
#![allow(missing_docs, reason = "temp")]
pub mod base;
pub mod ws;
