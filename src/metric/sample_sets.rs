//! The sets of samples that a statistic is of.

/// Samples, or how many there are, by what they are.
///
/// What a model was trained on and what it has not seen are told apart by what asks about copying. The reference
/// is one of the two: it takes the place of the one that is not named.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleSets<T> {
    pub generated: T,
    /// What the generated samples are compared with.
    pub reference: T,
    /// What the model was trained on, where that is not the reference.
    pub train: Option<T>,
    /// Data of the same law that the model has not seen, where those are not the reference.
    pub test: Option<T>,
}

/// What a set is to a statistic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleRole {
    Reference,
    /// What the model was trained on.
    Train,
    /// What it has not seen.
    Test,
}

impl<T: Copy> SampleSets<T> {
    /// Generated samples and a reference.
    pub fn generated_and_reference(generated: T, reference: T) -> SampleSets<T> {
        SampleSets {
            generated,
            reference,
            train: None,
            test: None,
        }
    }

    /// The set of that role; the reference is either of the others that is not named.
    pub fn for_role(&self, role: SampleRole) -> T {
        let named = match role {
            SampleRole::Reference => None,
            SampleRole::Train => self.train,
            SampleRole::Test => self.test,
        };
        named.unwrap_or(self.reference)
    }

    /// The same of every set.
    pub fn map<U>(self, of: impl Fn(T) -> U) -> SampleSets<U> {
        let SampleSets {
            generated,
            reference,
            train,
            test,
        } = self;
        SampleSets {
            generated: of(generated),
            reference: of(reference),
            train: train.map(&of),
            test: test.map(&of),
        }
    }
}

impl<T> SampleSets<T> {
    /// Something of every set that may fail.
    ///
    /// # Errors
    /// The first.
    pub fn try_map<U, E>(self, mut of: impl FnMut(T) -> Result<U, E>) -> Result<SampleSets<U>, E> {
        Ok(SampleSets {
            generated: of(self.generated)?,
            reference: of(self.reference)?,
            train: self.train.map(&mut of).transpose()?,
            test: self.test.map(of).transpose()?,
        })
    }

    pub fn as_ref(&self) -> SampleSets<&T> {
        let SampleSets {
            generated,
            reference,
            train,
            test,
        } = self;
        SampleSets {
            generated,
            reference,
            train: train.as_ref(),
            test: test.as_ref(),
        }
    }
}
