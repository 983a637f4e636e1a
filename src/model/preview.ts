/**
 * Previews as they are stored, read: what is not there or is of another kind is left out, and nothing is guessed.
 */

import type { PartialJSONObject, PartialJSONValue } from '@lumino/coreutils';

import type { IArtifact } from '../api/schema';
import { fileKind } from './contents';
import { counted, figure, plainly, size } from './format';

/** A column of a frame. */
export interface IColumn {
  readonly name: string;
  readonly type: string;
  /** How many of its values are missing; null where nobody has looked. */
  readonly missing: number | null;
  readonly isNumeric: boolean;
}

export interface IFrame {
  readonly columns: ReadonlyArray<IColumn>;
  readonly index: ReadonlyArray<string>;
  readonly rows: ReadonlyArray<ReadonlyArray<string>>;
  /** Of how many rows and columns these are the first. */
  readonly height: number | null;
  readonly width: number | null;
  readonly memory: number | null;
  /** What nobody has counted, and why. */
  readonly uncounted: string;
}

/** A name with a number, drawn as a bar. */
export interface IWeight {
  readonly name: string;
  readonly value: number;
}

/** A name and what is said of it. */
export type Fact = readonly [string, string];

export interface IEstimator {
  /** Its class without the module, and what was given to it that is not the default. */
  readonly text: string;
  readonly parameters: ReadonlyArray<Fact>;
  readonly learned: ReadonlyArray<Fact>;
  /** The weightiest features, greatest first. */
  readonly importances: ReadonlyArray<IWeight>;
  readonly layers: ReadonlyArray<string>;
}

/** Whether an artifact is code that a step has imported or defined, and not what it has made. */
export function isCode({ type, preview }: Pick<IArtifact, 'type' | 'preview'>): boolean {
  return (
    preview.kind === 'text' &&
    !/(^|\.)str$/.test(type) &&
    /^(class|function) /.test(said(preview.text))
  );
}

/** An artifact in a few words: `DataFrame 336,776 × 14`. */
export function summary(type: string, preview: PartialJSONObject): string {
  if (preview.kind === 'file') {
    return fileKind(said(preview.name));
  }
  if (preview.kind === 'folder') {
    return typeof preview.files === 'number'
      ? `folder, ${counted(preview.files, 'file')}`
      : 'folder';
  }
  const short = type.split('.').pop() ?? type;
  if (preview.kind === 'list' && typeof preview.length === 'number') {
    return `${short} of ${preview.length.toLocaleString('en-US')}`;
  }
  const shape = Array.isArray(preview.shape) ? ` ${shapeWords(preview.shape)}` : '';
  const kind =
    preview.kind === 'array' && typeof preview.type === 'string' ? ` ${preview.type}` : '';
  return `${short}${shape}${kind}`;
}

export function frameOf(preview: PartialJSONObject): IFrame {
  const columns = listOf(preview.columns).map(column => {
    const about = objectOf(column);
    const type = said(about.type);
    return {
      name: typeof column === 'string' ? column : said(about.name),
      type,
      missing: typeof about.missing === 'number' ? about.missing : null,
      isNumeric: /int|float|decimal|double/i.test(type)
    };
  });
  const shape = listOf(preview.shape);
  if (shape.length === 1 && columns.length === 1 && columns[0].name === '0') {
    // A series without a name, which stands in a frame under a number.
    columns[0].name = '';
  }
  const rows = listOf(preview.rows ?? preview.head).map(row =>
    columns.map(({ name }, at) => said(Array.isArray(row) ? row[at] : objectOf(row)[name]))
  );
  return {
    columns,
    index: listOf(preview.index).map(said),
    rows,
    height: numberOf(shape[0]),
    width: shape.length > 1 ? numberOf(shape[1]) : shape.length ? 1 : null,
    memory: numberOf(preview.memory),
    uncounted: said(preview['not counted'])
  };
}

/** What is said of a frame beside its first rows: how many there are, and how much memory all of it takes. */
export function frameWords(
  { columns, rows, height, width, memory, uncounted }: IFrame,
  shown: number
): string {
  const many = Math.min(shown, rows.length);
  const left = width === null ? 0 : width - columns.length;
  return [
    height !== null && height > many
      ? `${many ? `first ${many} of ` : ''}${counted(height, 'row')}`
      : counted(height ?? many, 'row'),
    left > 0 ? `${counted(left, 'more column')}` : '',
    memory === null ? '' : `${size(memory)} in memory`,
    uncounted && `not counted: ${uncounted}`
  ]
    .filter(Boolean)
    .join(' · ');
}

/** What is known of an array: its shape, its type, between which values all of it lies. */
export function arrayFacts(preview: PartialJSONObject): ReadonlyArray<Fact> {
  const { min, max, missing, shape, type, filled, stored } = preview;
  const known = [
    'kind',
    'text',
    'shape',
    'type',
    'min',
    'max',
    'missing',
    'first',
    'filled',
    'stored'
  ];
  const share =
    typeof missing === 'number' ? percent(missing / Math.max(1, product(listOf(shape)))) : '';
  const facts: [string, string][] = [
    ['shape', Array.isArray(shape) ? shapeWords(shape) : ''],
    ['type', said(type)],
    ['range', isThere(min) && isThere(max) ? `${short(min)} to ${short(max)}` : ''],
    ['missing', typeof missing === 'number' ? `${missing.toLocaleString('en-US')} (${share})` : ''],
    [
      'filled',
      typeof filled === 'number'
        ? `${percent(filled)}${typeof stored === 'number' ? `, ${counted(stored, 'value')}` : ''}`
        : ''
    ],
    ...Object.entries(preview)
      .filter(([name]) => !known.includes(name))
      .map(([name, value]): [string, string] => [name, said(value)])
  ];
  return facts.filter(([, value]) => value !== '');
}

/** The first values of an array. */
export function firstValues(preview: PartialJSONObject): string {
  const first = listOf(preview.first);
  const all = product(listOf(preview.shape));
  return first.length ? `${first.map(short).join(', ')}${all > first.length ? ', …' : ''}` : '';
}

export function estimatorOf(preview: PartialJSONObject): IEstimator {
  const learned = Object.entries(objectOf(preview.learned)).map(([name, value]): Fact => [
    name,
    said(value)
  ]);
  const importances = weightsOf(learned.find(([name]) => name === 'importances')?.[1] ?? '');
  const fitted = listOf(preview.fitted).length > 0;
  return {
    text: plainly(said(preview.text), 6),
    parameters: Object.entries(objectOf(preview.parameters ?? preview.params)).map(
      ([name, value]): Fact => [name, plainly(said(value), 6)]
    ),
    learned: [
      ...learned
        .filter(([name]) => name !== 'importances' || !importances.length)
        .map(([name, value]): Fact => [
          LEARNED[name] ?? name.replace(/_+$/, ''),
          value.replace(/^array\((.*?)(, dtype=\w+)?\)$/, '$1')
        ]),
      ...(preview.learned && !fitted && !learned.length ? [['fitted', 'not yet'] as Fact] : [])
    ],
    importances,
    layers: listOf(preview.layers).map(said)
  };
}

const LEARNED: { readonly [name: string]: string } = {
  n_features_in_: 'features',
  n_iter_: 'iterations',
  coef_: 'coefficients',
  intercept_: 'intercept',
  classes_: 'classes',
  best_params_: 'best parameters',
  best_score_: 'best score',
  n_clusters: 'clusters'
};

/** Names with their weights, as `distance 0.61, hour 0.2`; none if one of them cannot be read. */
export function weightsOf(text: string): ReadonlyArray<IWeight> {
  const found = text.split(', ').map(part => {
    const at = part.lastIndexOf(' ');
    return { name: part.slice(0, at), value: Number(part.slice(at + 1)) };
  });
  return text && found.every(({ name, value }) => name && Number.isFinite(value)) ? found : [];
}

/** What is known of a fan-out's list, or another one: its length, of what it is, between which values it lies. */
export function listFacts(preview: PartialJSONObject): ReadonlyArray<Fact> {
  const { length, failed, min, max } = preview;
  const types = listOf(preview.types).map(each => listOf(each as PartialJSONValue));
  const facts: [string, string][] = [
    ['length', typeof length === 'number' ? length.toLocaleString('en-US') : ''],
    [
      'of',
      types
        .map(([name, count]) => {
          const word = said(name).split('.').pop() ?? '';
          return types.length > 1 ? `${Number(count).toLocaleString('en-US')} ${word}` : word;
        })
        .join(', ')
    ],
    ['range', isThere(min) && isThere(max) ? `${short(min)} to ${short(max)}` : ''],
    [
      'without a value',
      typeof failed === 'number' && failed > 0 ? failed.toLocaleString('en-US') : ''
    ]
  ];
  return facts.filter(([, value]) => value !== '');
}

/** A value of a preview as text. */
export function said(value: PartialJSONValue | undefined): string {
  if (value === null || value === undefined) {
    return '';
  }
  if (typeof value === 'number' && !Number.isInteger(value)) {
    return String(Number(value.toPrecision(6)));
  }
  if (Array.isArray(value)) {
    return `[${value.map(said).join(', ')}]`;
  }
  return typeof value === 'string' ? value : JSON.stringify(value);
}

export function listOf(
  value: PartialJSONValue | undefined
): ReadonlyArray<PartialJSONValue | undefined> {
  return Array.isArray(value) ? value : [];
}

export function objectOf(value: PartialJSONValue | undefined): PartialJSONObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : {};
}

/** A share of a whole, never rounded to nothing or to all. */
export function percent(share: number): string {
  if (share > 0 && share < 0.001) {
    return '< 0.1 %';
  }
  if (share < 1 && share > 0.999) {
    return '> 99.9 %';
  }
  return `${figure(Math.round(share * 1000) / 10)} %`;
}

function shapeWords(shape: ReadonlyArray<PartialJSONValue | undefined>): string {
  return shape.map(each => Number(each).toLocaleString('en-US')).join(' × ') || 'one value';
}

function product(shape: ReadonlyArray<PartialJSONValue | undefined>): number {
  return shape.reduce<number>((all, each) => all * Number(each), 1);
}

function isThere(value: PartialJSONValue | undefined): value is PartialJSONValue {
  return value !== null && value !== undefined;
}

function numberOf(value: PartialJSONValue | undefined): number | null {
  return typeof value === 'number' ? value : null;
}

function short(value: PartialJSONValue | undefined): string {
  return typeof value === 'number' ? figure(value) : said(value);
}
