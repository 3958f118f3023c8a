//! fanwire
