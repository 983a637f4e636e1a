/**
 * The heat map of a fan-out: a canvas, so that twenty thousand items stay quick, with its words for who cannot see it.
 */

import * as React from 'react';

import {
  cellsOf,
  Colour,
  heatOf,
  IGrid,
  IHeat,
  IPicture,
  IRange,
  itemToOpen,
  layOutGrid,
  mix,
  positionOf,
  rampColour,
  rangeOf,
  squareWords
} from '../model/fanout';
import { figure } from '../model/format';

export interface IHeatMapProps {
  readonly picture: IPicture;
  readonly onOpen: (item: number) => void;
}

interface IPlace {
  readonly row: number;
  readonly column: number;
}

export function HeatMap({ picture, onOpen }: IHeatMapProps): JSX.Element | null {
  const host = React.useRef<HTMLDivElement>(null);
  const canvas = React.useRef<HTMLCanvasElement>(null);
  const width = useWidth(host);
  const theme = useTheme();
  const [pointed, setPointed] = React.useState<IPlace | null>(null);
  const [colours, setColours] = React.useState<IPalette | null>(null);
  const grid = React.useMemo(
    () => layOutGrid(picture, width),
    [picture.grid.join(), picture.names.join(), width]
  );
  const count = picture.states.length;
  const range = React.useMemo(() => rangeOf(picture.values), [picture]);
  React.useLayoutEffect(() => {
    if (host.current) {
      setColours(paletteOf(host.current));
    }
  }, [theme, width]);
  React.useLayoutEffect(() => {
    const drawing = canvas.current?.getContext('2d');
    if (canvas.current && drawing && grid && colours) {
      size(canvas.current, drawing, grid);
      draw(drawing, picture, grid, range, colours);
    }
  }, [picture, grid, range, colours]);
  const place = grid && pointed && pointed.row < grid.rows ? pointed : null;
  const cells = grid && place ? cellsOf(grid, place.row, place.column, count) : [];
  const open = ({ row, column }: IPlace) => {
    const item = grid && itemToOpen(picture, cellsOf(grid, row, column, count));
    if (item !== null) {
      onOpen(item);
    }
  };
  return (
    <div className="jp-mlb-HeatMap" ref={host}>
      <div className="jp-mlb-HeatMap-head">
        <span className="jp-mlb-HeatMap-title">{titleOf(picture, grid)}</span>
        {range && colours && <Legend range={range} colours={colours} />}
      </div>
      {grid && (
        <div className="jp-mlb-HeatMap-plot">
          <canvas
            ref={canvas}
            className="jp-mlb-HeatMap-canvas"
            tabIndex={0}
            role="application"
            aria-roledescription="heat map"
            aria-label={`${titleOf(picture, grid)}. The arrow keys go from cell to cell, Enter opens one.`}
            data-lm-suppress-shortcuts="true"
            style={{
              width: grid.columns * grid.width,
              height: grid.rows * grid.height
            }}
            onMouseMove={event => {
              const next = placeAt(event, grid);
              if (next.row !== pointed?.row || next.column !== pointed?.column) {
                setPointed(next);
              }
            }}
            onMouseLeave={() => setPointed(null)}
            onFocus={event => {
              if (event.currentTarget.matches(':focus-visible')) {
                setPointed(known => known ?? { row: 0, column: 0 });
              }
            }}
            onBlur={() => setPointed(null)}
            onClick={event => {
              // Where the pointer is now: the notebook may have taken the focus, and the mark with it.
              event.stopPropagation();
              open(placeAt(event, grid));
            }}
            onKeyDown={event => {
              const next = moved(event.key, place ?? { row: 0, column: 0 }, grid);
              if (next) {
                setPointed(next);
              } else if (place && (event.key === 'Enter' || event.key === ' ')) {
                open(place);
              } else if (event.key === 'Escape') {
                event.currentTarget.blur();
              } else {
                return;
              }
              event.preventDefault();
              event.stopPropagation();
            }}
          />
          {place && cells.length > 0 && (
            <div
              className="jp-mlb-HeatMap-mark"
              aria-hidden="true"
              style={{
                left: place.column * grid.width,
                top: place.row * grid.height,
                width: grid.width,
                height: grid.height
              }}
            />
          )}
        </div>
      )}
      <div className="jp-mlb-HeatMap-words" role="status">
        {squareWords(picture, cells)}
      </div>
    </div>
  );
}

function Legend(props: { readonly range: IRange; readonly colours: IPalette }): JSX.Element {
  const { range, colours } = props;
  const stops = [0, 0.25, 0.5, 0.75, 1].map(at =>
    css(rampColour(colours.ground, colours.strong, at))
  );
  return (
    <span className="jp-mlb-HeatMap-legend">
      {range.isCut ? '≤ ' : ''}
      {figure(range.low)}
      <span
        className="jp-mlb-HeatMap-ramp"
        style={{ background: `linear-gradient(to right, ${stops.join(', ')})` }}
      />
      {range.isCut ? '≥ ' : ''}
      {figure(range.high)}
    </span>
  );
}

/** What the map shows: `rmse by carrier (down) and alpha (across)`. */
function titleOf({ metric, names }: IPicture, grid: IGrid | null): string {
  const what = metric ?? 'state';
  if (!grid || grid.down.name === null) {
    return `${what} by ${grid?.across.name ?? names.join(' and ')}`;
  }
  return `${what} by ${grid.down.name} (down) and ${grid.across.name} (across)`;
}

function placeAt(event: React.MouseEvent<HTMLCanvasElement>, grid: IGrid): IPlace {
  const box = event.currentTarget.getBoundingClientRect();
  const at = (offset: number, side: number, count: number) =>
    Math.max(0, Math.min(count - 1, Math.floor(offset / side)));
  return {
    row: at(event.clientY - box.top, box.height / grid.rows, grid.rows),
    column: at(event.clientX - box.left, box.width / grid.columns, grid.columns)
  };
}

function moved(key: string, { row, column }: IPlace, grid: IGrid): IPlace | null {
  const { rows, columns } = grid;
  switch (key) {
    case 'ArrowRight':
      return { row, column: Math.min(columns - 1, column + 1) };
    case 'ArrowLeft':
      return { row, column: Math.max(0, column - 1) };
    case 'ArrowDown':
      return { row: Math.min(rows - 1, row + 1), column };
    case 'ArrowUp':
      return { row: Math.max(0, row - 1), column };
    case 'Home':
      return { row, column: 0 };
    case 'End':
      return { row, column: columns - 1 };
    default:
      return null;
  }
}

/** The theme's colours as numbers, from which the ramp is mixed. */
interface IPalette {
  readonly ground: Colour;
  readonly strong: Colour;
  readonly none: Colour;
  readonly failed: Colour;
  readonly quiet: Colour;
}

function paletteOf(node: HTMLElement): IPalette {
  const style = getComputedStyle(node);
  const probe = document.createElement('canvas');
  probe.width = probe.height = 1;
  const drawing = probe.getContext('2d', { willReadFrequently: true });
  const read = (name: string): Colour => {
    if (!drawing) {
      return [128, 128, 128];
    }
    drawing.fillStyle = style.getPropertyValue(name).trim();
    drawing.fillRect(0, 0, 1, 1);
    const [red, green, blue] = drawing.getImageData(0, 0, 1, 1).data;
    return [red, green, blue];
  };
  const ground = read('--jp-layout-color1');
  const quiet = read('--jp-ui-font-color1');
  return {
    ground,
    strong: read('--jp-brand-color1'),
    none: mix(ground, quiet, 0.22),
    failed: read('--jp-error-color1'),
    quiet: mix(ground, quiet, 0.55)
  };
}

function css([red, green, blue]: Colour): string {
  return `rgb(${red} ${green} ${blue})`;
}

function size(canvas: HTMLCanvasElement, drawing: CanvasRenderingContext2D, grid: IGrid): void {
  const density = window.devicePixelRatio || 1;
  canvas.width = Math.round(grid.columns * grid.width * density);
  canvas.height = Math.round(grid.rows * grid.height * density);
  drawing.setTransform(density, 0, 0, density, 0, 0);
}

function draw(
  drawing: CanvasRenderingContext2D,
  picture: IPicture,
  grid: IGrid,
  range: IRange | null,
  colours: IPalette
): void {
  const { rows, columns, width, height } = grid;
  const gap = Math.min(width, height) > 4 ? 1 : 0;
  const failed: IPlace[] = [];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const cells = cellsOf(grid, row, column, picture.states.length);
      if (!cells.length) {
        continue;
      }
      const heat = heatOf(picture, cells);
      if (heat.state === 'f') {
        failed.push({ row, column });
      }
      const box: Box = [column * width, row * height, width - gap, height - gap];
      drawSquare(drawing, box, heat, range, colours);
    }
  }
  // Last, so that their neighbours do not cover what reaches over the edge of a small cell.
  for (const { row, column } of failed) {
    const box: Box = [column * width, row * height, width - gap, height - gap];
    drawFailed(drawing, box, colours);
  }
}

type Box = readonly [number, number, number, number];

function drawSquare(
  drawing: CanvasRenderingContext2D,
  [x, y, width, height]: Box,
  { state, value }: IHeat,
  range: IRange | null,
  colours: IPalette
): void {
  const isSmall = Math.min(width, height) < 5;
  if (value !== null && range) {
    drawing.fillStyle = css(rampColour(colours.ground, colours.strong, positionOf(value, range)));
    drawing.fillRect(x, y, width, height);
  } else if (state === 's' || state === 'u') {
    // Done, and without a value: hatched, as nothing on the ramp is.
    drawing.fillStyle = css(colours.none);
    drawing.fillRect(x, y, width, height);
    if (!isSmall) {
      line(drawing, css(colours.quiet), [x, y + height], [x + width, y]);
    }
  } else if (state === 'q') {
    drawing.fillStyle = css(colours.none);
    const dot = Math.ceil(Math.min(width, height) / 3);
    const box = isSmall
      ? ([x, y, width, height] as const)
      : ([x + (width - dot) / 2, y + (height - dot) / 2, dot, dot] as const);
    drawing.fillRect(...box);
  } else if (state === 'c') {
    drawing.strokeStyle = css(colours.none);
    drawing.strokeRect(x + 0.5, y + 0.5, width - 1, height - 1);
  }
  if (state === 'r') {
    drawing.strokeStyle = css(colours.strong);
    drawing.lineWidth = 1;
    drawing.strokeRect(x + 0.5, y + 0.5, Math.max(1, width - 1), Math.max(1, height - 1));
  }
}

/** A failed item: red, and with a cross or, where that is too small to see, larger than its cell and framed. */
function drawFailed(
  drawing: CanvasRenderingContext2D,
  [x, y, width, height]: Box,
  colours: IPalette
): void {
  if (Math.min(width, height) >= 5) {
    drawing.fillStyle = css(colours.failed);
    drawing.fillRect(x, y, width, height);
    line(drawing, css(colours.ground), [x + 1, y + 1], [x + width - 1, y + height - 1]);
    line(drawing, css(colours.ground), [x + width - 1, y + 1], [x + 1, y + height - 1]);
    return;
  }
  const [over, under] = [Math.max(0, 5 - width) / 2, Math.max(0, 5 - height) / 2];
  drawing.fillStyle = css(colours.ground);
  drawing.fillRect(x - over - 1, y - under - 1, width + 2 * over + 2, height + 2 * under + 2);
  drawing.fillStyle = css(colours.failed);
  drawing.fillRect(x - over, y - under, width + 2 * over, height + 2 * under);
}

function line(
  drawing: CanvasRenderingContext2D,
  colour: string,
  from: readonly [number, number],
  to: readonly [number, number]
): void {
  drawing.strokeStyle = colour;
  drawing.lineWidth = 1.2;
  drawing.beginPath();
  drawing.moveTo(...from);
  drawing.lineTo(...to);
  drawing.stroke();
}

/** The width that there is for the map, in whole pixels. */
function useWidth(host: React.RefObject<HTMLElement>): number {
  const [width, setWidth] = React.useState(0);
  React.useLayoutEffect(() => {
    const node = host.current;
    if (!node) {
      return;
    }
    const measure = () => setWidth(Math.floor(node.clientWidth));
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(node);
    return () => observer.disconnect();
  }, [host]);
  return width;
}

/** The name of the theme, so that what is drawn with its colours is drawn again with those of another. */
function useTheme(): string {
  const now = () => `${document.body.dataset.jpThemeName} ${document.body.dataset.jpThemeLight}`;
  const [theme, setTheme] = React.useState(now);
  React.useEffect(() => {
    const observer = new MutationObserver(() => setTheme(now()));
    observer.observe(document.body, {
      attributeFilter: ['data-jp-theme-name', 'data-jp-theme-light']
    });
    return () => observer.disconnect();
  }, []);
  return theme;
}
