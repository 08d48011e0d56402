//! The kinds of files for which cards can be drafted.

/// What wrote the files for which a card is drafted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DraftKind {
    /// A folder in the layout of diffusers' pipelines, with ONNX files as optimum exports them.
    Diffusers,
    /// A denoiser of EDM (Karras et al. 2022): x, σ and perhaps labels give the denoised data.
    Edm,
    /// A velocity of the package torchcfm: t and x give v, with data at time 1.
    Torchcfm,
    /// A velocity of the package flow_matching: x and t give v, with data at time 1.
    FlowMatching,
    /// A network of score_sde (Song et al. 2021).
    ScoreSde,
    /// A noise prediction of DDPM (Ho et al. 2020) with discrete times.
    Ddpm,
    /// A velocity or a score of the package sbi, conditional on observations.
    Sbi,
    /// Any graph; everything is guessed from its ports.
    Onnx,
}

impl DraftKind {
    /// Every kind.
    pub(crate) const ALL: [DraftKind; 8] = [
        DraftKind::Diffusers,
        DraftKind::Edm,
        DraftKind::Torchcfm,
        DraftKind::FlowMatching,
        DraftKind::ScoreSde,
        DraftKind::Ddpm,
        DraftKind::Sbi,
        DraftKind::Onnx,
    ];

    /// Returns the name of the kind on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            DraftKind::Diffusers => "diffusers",
            DraftKind::Edm => "edm",
            DraftKind::Torchcfm => "torchcfm",
            DraftKind::FlowMatching => "flow-matching",
            DraftKind::ScoreSde => "score-sde",
            DraftKind::Ddpm => "ddpm",
            DraftKind::Sbi => "sbi",
            DraftKind::Onnx => "onnx",
        }
    }

    /// Returns the kind with the given name; `_` may stand for `-`.
    ///
    /// # Errors
    /// Fails if there is none. The message lists the names of all kinds.
    pub(crate) fn from_name(name: &str) -> Result<DraftKind, String> {
        let name = name.to_lowercase().replace('_', "-");
        let found = DraftKind::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| {
            format!(
                "expected {}",
                crate::yaml::one_of(DraftKind::ALL.into_iter().map(DraftKind::name))
            )
        })
    }
}
