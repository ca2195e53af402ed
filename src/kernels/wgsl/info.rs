//! A shader's `struct Info`, filled word by word under the names of its fields; a test compares them with the shader's.

/// The words of a launch, each with its field.
#[derive(Debug, Clone)]
pub(super) struct Info(Vec<(&'static str, u32)>);

impl Info {
    pub fn new(words: Vec<(&'static str, u32)>) -> Self {
        Self(words)
    }

    /// With the fields of `more` behind its own.
    pub fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// What the kernel reads.
    pub fn words(&self) -> Vec<u32> {
        self.0.iter().map(|(_, word)| *word).collect()
    }

    /// Fields and words in their order.
    pub fn fields(&self) -> &[(&'static str, u32)] {
        &self.0
    }

    /// The fields in their order.
    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|(name, _)| *name).collect()
    }
}

/// What becomes a word of an [`Info`].
pub(super) trait Word {
    fn word(self) -> u32;
}

impl Word for usize {
    fn word(self) -> u32 {
        self as u32
    }
}

impl Word for bool {
    fn word(self) -> u32 {
        self.into()
    }
}

impl Word for f32 {
    fn word(self) -> u32 {
        self.to_bits()
    }
}

/// An [`Info`] of `field: value`, in the order of the shader's struct.
macro_rules! info {
    ($($name:ident: $value:expr),* $(,)?) => {
        $crate::kernels::wgsl::info::Info::new(vec![
            $((stringify!($name), $crate::kernels::wgsl::info::Word::word($value))),*
        ])
    };
}
pub(super) use info;
