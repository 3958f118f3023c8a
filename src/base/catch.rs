//! Calls code of the embedding program that may panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What `call` returns; `None` when it panics. A panic in the destructor of the first one's payload
/// is caught too.
pub fn catch_panic<R>(call: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => Some(result),
        Err(payload) => {
            if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                // Its destructor may panic as well, and so on without end.
                std::mem::forget(second);
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A payload whose destructor panics with the next one.
    struct Nested(u32);

    impl Drop for Nested {
        fn drop(&mut self) {
            if self.0 > 0 {
                std::panic::panic_any(Nested(self.0 - 1));
            }
        }
    }

    #[test]
    fn no_panic_passes_not_even_that_of_a_payload() {
        assert_eq!(catch_panic(|| 1), Some(1));
        for depth in 0..4 {
            let caught = catch_panic(|| std::panic::panic_any(Nested(depth)));
            assert_eq!(caught, None::<()>);
        }
    }
}
