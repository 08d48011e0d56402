//! A backend of `plotters` that writes a PDF page as large as the figure.
//!
//! Texts stay texts: the glyphs that occur are embedded, with the characters that they stand for.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io::Write as _;

use anyhow::{Context, Result, anyhow};
use pdf_writer::types::{CidFontType, FontFlags, SystemInfo, UnicodeCmap};
use pdf_writer::{Content, Filter, Finish, Name, Pdf, Rect, Ref, Str};
use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, VPos};
use plotters::style::{FontStyle, FontTransform};
use plotters_backend::{BackendColor, BackendStyle, BackendTextStyle, DrawingErrorKind};

use super::backend::Backend;
use super::font::{FONT_SIZE_PER_EM, FigureFont};
use super::svg::HALF_X_HEIGHT;
use crate::report::figure_spec::Raster;

/// Where the handles of a circle's four Bézier curves lie, as a part of the radius.
const CIRCLE_HANDLE: f32 = 0.552_285;
const SYSTEM_INFO: SystemInfo = SystemInfo {
    registry: Str(b"Adobe"),
    ordering: Str(b"Identity"),
    supplement: 0,
};

/// The page of a figure while it is drawn.
pub(super) struct PdfBackend<'a> {
    content: Content,
    /// The size in units of the drawing.
    size: (u32, u32),
    font: &'a FigureFont,
    /// The glyphs of each weight that occur, with their characters.
    glyphs: BTreeMap<bool, BTreeMap<u16, char>>,
    /// The opacities that occur, in thousandths.
    opacities: BTreeSet<u32>,
    rasters: Vec<Raster>,
}

impl<'a> PdfBackend<'a> {
    /// A page on a grid of this size, which is `points` points wide.
    pub(super) fn new(size: (u32, u32), points: f32, font: &'a FigureFont) -> PdfBackend<'a> {
        let mut content = Content::new();
        let scale = points / size.0 as f32;
        // The drawing's y axis points down, and that of a page points up.
        content.transform([scale, 0.0, 0.0, -scale, 0.0, scale * size.1 as f32]);
        PdfBackend {
            content,
            size,
            font,
            glyphs: BTreeMap::new(),
            opacities: BTreeSet::new(),
            rasters: Vec::new(),
        }
    }

    /// Sets the colour of what is filled or stroked next.
    fn set_colour(&mut self, colour: BackendColor) {
        let part = |level: u8| f32::from(level) / 255.0;
        let (r, g, b) = colour.rgb;
        self.content.set_fill_rgb(part(r), part(g), part(b));
        self.content.set_stroke_rgb(part(r), part(g), part(b));
        let opacity = (1000.0 * colour.alpha).round() as u32;
        self.opacities.insert(opacity);
        let name = format!("O{opacity}");
        self.content.set_parameters(Name(name.as_bytes()));
    }

    fn add_path(&mut self, points: impl IntoIterator<Item = (i32, i32)>) {
        for (i, (x, y)) in points.into_iter().enumerate() {
            if i == 0 {
                self.content.move_to(x as f32, y as f32);
            } else {
                self.content.line_to(x as f32, y as f32);
            }
        }
    }

    /// The file, on a page that is `points` points wide.
    ///
    /// # Errors
    /// Fails if the font cannot be embedded.
    pub(super) fn into_file(self, points: f32) -> Result<Vec<u8>> {
        let mut ids = (1..).map(Ref::new);
        let mut next = || ids.next().unwrap_or(Ref::new(i32::MAX));
        let (catalog, pages, page_id, content_id) = (next(), next(), next(), next());
        let fonts: Vec<(bool, [Ref; 5])> = self
            .glyphs
            .keys()
            .map(|bold| (*bold, std::array::from_fn(|_| next())))
            .collect();
        let images: Vec<Ref> = self.rasters.iter().map(|_| next()).collect();
        let mut pdf = Pdf::new();
        pdf.catalog(catalog).pages(pages);
        pdf.pages(pages).kids([page_id]).count(1);
        let height = points * self.size.1 as f32 / self.size.0 as f32;
        let mut page = pdf.page(page_id);
        page.media_box(Rect::new(0.0, 0.0, points, height));
        page.parent(pages);
        page.contents(content_id);
        let mut resources = page.resources();
        let mut named = resources.fonts();
        for (bold, [id, ..]) in &fonts {
            named.pair(Name(font_name(*bold)), id);
        }
        named.finish();
        let mut named = resources.x_objects();
        for (i, id) in images.iter().enumerate() {
            named.pair(Name(format!("R{i}").as_bytes()), id);
        }
        named.finish();
        let mut named = resources.ext_g_states();
        for opacity in &self.opacities {
            let part = *opacity as f32 / 1000.0;
            named
                .insert(Name(format!("O{opacity}").as_bytes()))
                .start::<pdf_writer::writers::ExtGraphicsState>()
                .stroking_alpha(part)
                .non_stroking_alpha(part);
        }
        named.finish();
        resources.finish();
        page.finish();
        let content = deflated(&self.content.finish())?;
        pdf.stream(content_id, &content).filter(Filter::FlateDecode);
        for (raster, id) in self.rasters.iter().zip(&images) {
            let bytes: Vec<u8> = raster.pixels.iter().flatten().copied().collect();
            let bytes = deflated(&bytes)?;
            let mut image = pdf.image_xobject(*id, &bytes);
            image.filter(Filter::FlateDecode);
            image.width(raster.width as i32);
            image.height(raster.height as i32);
            image.color_space().device_rgb();
            image.bits_per_component(8);
        }
        for (bold, ids) in &fonts {
            write_font(&mut pdf, *ids, self.font.bytes(*bold), &self.glyphs[bold])?;
        }
        Ok(pdf.finish())
    }
}

/// Embeds the glyphs of a font. The objects are the font, its descendant, its descriptor, its file and
/// the characters of its glyphs.
fn write_font(
    pdf: &mut Pdf,
    [font_id, cid_id, descriptor_id, file_id, cmap_id]: [Ref; 5],
    bytes: &[u8],
    glyphs: &BTreeMap<u16, char>,
) -> Result<()> {
    let face = ttf_parser::Face::parse(bytes, 0).context("the font of the figure")?;
    let per_em = 1000.0 / f32::from(face.units_per_em());
    let used: Vec<u16> = glyphs.keys().copied().collect();
    let subset = subsetter::subset(bytes, 0, subsetter::Profile::pdf(&used))
        .map_err(|error| anyhow!("the font of the figure: {error}"))?;
    let is_cff = face.tables().cff.is_some();
    let name = face
        .names()
        .into_iter()
        .filter(|name| name.name_id == ttf_parser::name_id::POST_SCRIPT_NAME && name.is_unicode())
        .find_map(|name| name.to_string())
        .unwrap_or_else(|| "Font".to_owned());
    // Six letters before the name say that the font is a subset.
    let name = format!("FIGURE+{name}");
    let name = Name(name.as_bytes());
    pdf.type0_font(font_id)
        .base_font(name)
        .encoding_predefined(Name(b"Identity-H"))
        .descendant_font(cid_id)
        .to_unicode(cmap_id);
    let mut cid = pdf.cid_font(cid_id);
    cid.subtype(if is_cff {
        CidFontType::Type0
    } else {
        CidFontType::Type2
    });
    cid.base_font(name);
    cid.system_info(SYSTEM_INFO);
    cid.font_descriptor(descriptor_id);
    cid.default_width(0.0);
    if !is_cff {
        cid.cid_to_gid_map_predefined(Name(b"Identity"));
    }
    let mut widths = cid.widths();
    for glyph in &used {
        let advance = face.glyph_hor_advance(ttf_parser::GlyphId(*glyph));
        widths.consecutive(*glyph, [per_em * f32::from(advance.unwrap_or(0))]);
    }
    widths.finish();
    cid.finish();
    let bounds = face.global_bounding_box();
    let mut descriptor = pdf.font_descriptor(descriptor_id);
    descriptor
        .name(name)
        .flags(FontFlags::SYMBOLIC)
        .bbox(Rect::new(
            per_em * f32::from(bounds.x_min),
            per_em * f32::from(bounds.y_min),
            per_em * f32::from(bounds.x_max),
            per_em * f32::from(bounds.y_max),
        ))
        .italic_angle(face.italic_angle())
        .ascent(per_em * f32::from(face.ascender()))
        .descent(per_em * f32::from(face.descender()))
        .cap_height(per_em * f32::from(face.capital_height().unwrap_or(face.ascender())))
        .stem_v(80.0);
    if is_cff {
        descriptor.font_file3(file_id);
    } else {
        descriptor.font_file2(file_id);
    }
    descriptor.finish();
    let file = deflated(&subset)?;
    let mut stream = pdf.stream(file_id, &file);
    stream.filter(Filter::FlateDecode);
    if is_cff {
        stream.pair(Name(b"Subtype"), Name(b"OpenType"));
    }
    stream.finish();
    let mut cmap = UnicodeCmap::new(Name(b"Figure"), SYSTEM_INFO);
    for (glyph, character) in glyphs {
        cmap.pair(*glyph, *character);
    }
    pdf.cmap(cmap_id, &cmap.finish());
    Ok(())
}

fn font_name(bold: bool) -> &'static [u8] {
    if bold { b"FB" } else { b"FR" }
}

fn deflated(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

impl Backend for PdfBackend<'_> {
    fn set_dashes(&mut self, dashes: Option<[u32; 2]>) -> bool {
        let lengths = dashes.map_or(Vec::new(), |dashes| dashes.map(|v| v as f32).to_vec());
        self.content.set_dash_pattern(lengths, 0.0);
        true
    }

    fn draw_raster(&mut self, from: (i32, i32), to: (i32, i32), raster: &Raster) -> bool {
        let [x, y] = [from.0 as f32, to.1 as f32];
        let [w, h] = [(to.0 - from.0) as f32, (to.1 - from.1) as f32];
        let name = format!("R{}", self.rasters.len());
        self.content.save_state();
        self.content.transform([w, 0.0, 0.0, -h, x, y]);
        self.content.x_object(Name(name.as_bytes()));
        self.content.restore_state();
        self.rasters.push(raster.clone());
        true
    }
}

type Drawn = std::result::Result<(), DrawingErrorKind<Infallible>>;

impl DrawingBackend for PdfBackend<'_> {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.size
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): (i32, i32), colour: BackendColor) -> Drawn {
        self.set_colour(colour);
        self.content.rect(x as f32, y as f32, 1.0, 1.0);
        self.content.fill_nonzero();
        Ok(())
    }

    fn draw_line<S: BackendStyle>(&mut self, from: (i32, i32), to: (i32, i32), style: &S) -> Drawn {
        self.draw_path([from, to], style)
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = (i32, i32)>>(
        &mut self,
        path: I,
        style: &S,
    ) -> Drawn {
        self.set_colour(style.color());
        self.content.set_line_width(style.stroke_width() as f32);
        self.content
            .set_line_join(pdf_writer::types::LineJoinStyle::RoundJoin);
        self.add_path(path);
        self.content.stroke();
        Ok(())
    }

    fn draw_circle<S: BackendStyle>(
        &mut self,
        (x, y): (i32, i32),
        radius: u32,
        style: &S,
        _fill: bool,
    ) -> Drawn {
        self.set_colour(style.color());
        let (x, y, r) = (x as f32, y as f32, radius as f32);
        let k = CIRCLE_HANDLE * r;
        self.content
            .move_to(x + r, y)
            .cubic_to(x + r, y + k, x + k, y + r, x, y + r)
            .cubic_to(x - k, y + r, x - r, y + k, x - r, y)
            .cubic_to(x - r, y - k, x - k, y - r, x, y - r)
            .cubic_to(x + k, y - r, x + r, y - k, x + r, y)
            .close_path()
            .fill_nonzero();
        Ok(())
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = (i32, i32)>>(
        &mut self,
        corners: I,
        style: &S,
    ) -> Drawn {
        self.set_colour(style.color());
        self.add_path(corners);
        self.content.close_path().fill_nonzero();
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(
        &mut self,
        text: &str,
        style: &S,
        (x, y): (i32, i32),
    ) -> Drawn {
        let bold = matches!(style.style(), FontStyle::Bold);
        let Ok(face) = ttf_parser::Face::parse(self.font.bytes(bold), 0) else {
            return Ok(());
        };
        let size = (style.size() / FONT_SIZE_PER_EM) as f32;
        let per_em = size / f32::from(face.units_per_em());
        let own = self.glyphs.entry(bold).or_default();
        let (mut encoded, mut width) = (Vec::new(), 0.0);
        for character in text.chars() {
            // A character that the font lacks is shown by the font's own sign for it.
            let glyph = face.glyph_index(character).unwrap_or_default();
            own.insert(glyph.0, character);
            encoded.extend(glyph.0.to_be_bytes());
            width += per_em * f32::from(face.glyph_hor_advance(glyph).unwrap_or(0));
        }
        let along = match style.anchor().h_pos {
            HPos::Left => 0.0,
            HPos::Center => -width / 2.0,
            HPos::Right => -width,
        };
        let raised = match style.anchor().v_pos {
            VPos::Bottom => HALF_X_HEIGHT as f32 * size,
            VPos::Center | VPos::Top => 0.0,
        };
        let (x, y) = (x as f32, y as f32);
        // Texts point up on the page, against the drawing's y axis.
        let matrix = match style.transform() {
            FontTransform::Rotate270 => [0.0, -1.0, -1.0, 0.0, x - raised, y - along],
            _ => [1.0, 0.0, 0.0, -1.0, x + along, y - raised],
        };
        self.set_colour(style.color());
        self.content
            .begin_text()
            .set_font(Name(font_name(bold)), size)
            .set_text_matrix(matrix)
            .show(Str(&encoded))
            .end_text();
        Ok(())
    }
}
