//! Values that hold while some work runs.

/// Runs `work`, and `restore` after it, also where `work` panics.
pub(crate) fn restoring<R>(restore: impl FnOnce(), work: impl FnOnce() -> R) -> R {
    struct Restore<F: FnOnce()>(Option<F>);
    impl<F: FnOnce()> Drop for Restore<F> {
        fn drop(&mut self) {
            if let Some(restore) = self.0.take() {
                restore();
            }
        }
    }
    let _restore = Restore(Some(restore));
    work()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_value_is_restored_after_a_panic_too() {
        let value = Cell::new(1);
        let within = |work: &dyn Fn() -> i32| {
            let outer = value.replace(2);
            restoring(|| value.set(outer), work)
        };
        assert_eq!((within(&|| value.get()), value.get()), (2, 1));
        let panicked = catch_unwind(AssertUnwindSafe(|| within(&|| panic!("work"))));
        assert!(panicked.is_err());
        assert_eq!(value.get(), 1);
    }
}
