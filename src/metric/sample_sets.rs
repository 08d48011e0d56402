//! The sets of samples that a statistic compares, and their roles.

/// One value per set of samples, such as the samples themselves or their number.
///
/// Statistics of copying distinguish training data from held-out data, which the model has not
/// seen. The reference is either of them: it takes the role of the set that is not given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleSets<T> {
    /// The generated samples.
    pub generated: T,
    /// The reference samples.
    pub reference: T,
    /// The training data, if they are not the reference.
    pub train: Option<T>,
    /// The held-out data, from the same distribution as the training data, if they are not the
    /// reference.
    pub test: Option<T>,
}

/// The role of a set that generated samples are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleRole {
    /// The reference samples.
    Reference,
    /// The training data of the model.
    Train,
    /// The held-out data, which the model has not seen.
    Test,
}

impl<T: Copy> SampleSets<T> {
    /// Two sets: generated samples and reference samples.
    pub fn generated_and_reference(generated: T, reference: T) -> SampleSets<T> {
        SampleSets {
            generated,
            reference,
            train: None,
            test: None,
        }
    }

    /// The set with the given role. The reference stands in for training data or held-out data that
    /// are not given.
    pub fn for_role(&self, role: SampleRole) -> T {
        let named = match role {
            SampleRole::Reference => None,
            SampleRole::Train => self.train,
            SampleRole::Test => self.test,
        };
        named.unwrap_or(self.reference)
    }

    /// Applies `of` to every set.
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
    /// Applies `of`, which may fail, to every set.
    ///
    /// # Errors
    /// Fails with the first error of `of`.
    pub fn try_map<U, E>(self, mut of: impl FnMut(T) -> Result<U, E>) -> Result<SampleSets<U>, E> {
        Ok(SampleSets {
            generated: of(self.generated)?,
            reference: of(self.reference)?,
            train: self.train.map(&mut of).transpose()?,
            test: self.test.map(of).transpose()?,
        })
    }

    /// References to every set.
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
