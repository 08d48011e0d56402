//! The fonts of figures. No font of the system is used unless it is asked for by its file.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, bail};
use plotters::style::{FontDesc, FontFamily, FontStyle};

/// The font size of plotters per height of an em.
pub(super) const FONT_SIZE_PER_EM: f64 = 1.24;

/// A font in two weights.
#[derive(Debug, Clone)]
pub(crate) struct FigureFont {
    /// The name of the family, which SVG files name.
    family: String,
    regular: Cow<'static, [u8]>,
    bold: Cow<'static, [u8]>,
}

impl Default for FigureFont {
    /// DejaVu Sans, which is in the program.
    fn default() -> FigureFont {
        FigureFont {
            family: "DejaVu Sans".to_owned(),
            regular: Cow::Borrowed(dejavu::sans::regular()),
            bold: Cow::Borrowed(dejavu::sans::bold()),
        }
    }
}

impl FigureFont {
    /// The font of a TrueType or OpenType file, which also serves for bold texts.
    ///
    /// # Errors
    /// Fails if the file cannot be read, if it is no such font, or if it lacks letters or digits.
    pub(crate) fn from_file(path: &Path) -> Result<FigureFont> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let font = FigureFont::from_bytes(bytes);
        font.with_context(|| format!("{} is not a font for figures", path.display()))
    }

    fn from_bytes(bytes: Vec<u8>) -> Result<FigureFont> {
        let face = ttf_parser::Face::parse(&bytes, 0)
            .map_err(|error| anyhow!("{error}; expected a TrueType or OpenType file"))?;
        let missing = "AZaz09.-±".chars().find(|c| face.glyph_index(*c).is_none());
        if let Some(missing) = missing {
            bail!("it has no glyph for {missing:?}");
        }
        let names = face.names().into_iter();
        let family = names
            .filter(|name| name.name_id == ttf_parser::name_id::FAMILY && name.is_unicode())
            .find_map(|name| name.to_string())
            .context("it does not name its family")?;
        let font = FigureFont {
            family,
            regular: Cow::Owned(bytes.clone()),
            bold: Cow::Owned(bytes),
        };
        font.register()?;
        Ok(font)
    }

    /// The name of the family.
    pub(super) fn family(&self) -> &str {
        &self.family
    }

    /// The bytes of the file of a weight.
    pub(super) fn bytes(&self, bold: bool) -> &[u8] {
        if bold { &self.bold } else { &self.regular }
    }

    /// The font as `plotters` names it.
    ///
    /// # Errors
    /// Fails if the font cannot be parsed.
    pub(super) fn description(&self, size: f64, bold: bool) -> Result<FontDesc<'_>> {
        self.register()?;
        let style = if bold {
            FontStyle::Bold
        } else {
            FontStyle::Normal
        };
        let family = FontFamily::Name(&self.family);
        Ok(FontDesc::new(family, size * FONT_SIZE_PER_EM, style))
    }

    /// The width of a text in pixels.
    pub(super) fn width(&self, text: &str, size: f64, bold: bool) -> f64 {
        // The text is measured at ten times its size, because plotters rounds to whole pixels.
        let font = self.description(10.0 * size, bold).ok();
        let measured = font.and_then(|font| font.layout_box(text).ok());
        measured.map_or(
            0.6 * size * text.chars().count() as f64,
            |((left, _), (right, _))| f64::from(right - left) / 10.0,
        )
    }

    /// Makes the font known to `plotters` once.
    fn register(&self) -> Result<()> {
        static REGISTERED: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let mut registered = REGISTERED
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if registered.contains(&self.family) {
            return Ok(());
        }
        for (style, bytes) in [
            (FontStyle::Normal, &self.regular),
            (FontStyle::Bold, &self.bold),
        ] {
            let bytes: &'static [u8] = match bytes {
                Cow::Borrowed(bytes) => bytes,
                // A process uses one font of a file at most, and needs it until it ends.
                Cow::Owned(bytes) => Box::leak(bytes.clone().into_boxed_slice()),
            };
            plotters::style::register_font(&self.family, style, bytes)
                .map_err(|_| anyhow!("the font {} cannot be drawn", self.family))?;
        }
        registered.push(self.family.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_font_is_named_by_its_family_and_refused_if_it_is_none() {
        let font = FigureFont::from_bytes(dejavu::serif::regular().to_vec()).expect("a font");
        assert_eq!(font.family(), "DejaVu Serif");
        let wide = font.width("mm", 12.0, false);
        assert!(wide > 1.5 * font.width("ii", 12.0, false), "{wide}");
        let refused = FigureFont::from_bytes(b"not a font".to_vec()).expect_err("no font");
        assert!(refused.to_string().contains("TrueType"), "{refused}");
    }
}
