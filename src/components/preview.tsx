/**
 * What is shown of an artifact without loading it: the preview that was made where the value was made, and of a file
 * its picture or its first lines.
 */

import type { PartialJSONObject } from '@lumino/coreutils';
import * as React from 'react';

import type { IArtifact } from '../api/schema';
import type { IContents } from '../model/contents';
import { counted, figure, plainly } from '../model/format';
import {
  arrayFacts,
  estimatorOf,
  Fact,
  firstValues,
  frameOf,
  frameWords,
  IFrame,
  listFacts,
  listOf,
  IWeight,
  objectOf,
  percent,
  said
} from '../model/preview';
import { FileLook, FolderFiles } from './files';

/** Rows of a frame, facts, and values that are shown in a card and on a page. */
const IN_CARD = { rows: 5, facts: 8 };
const ON_PAGE = { rows: 10, facts: 60 };

export interface IPreviewProps {
  readonly artifact: Pick<IArtifact, 'digest' | 'codec' | 'preview'>;
  /** What it is called. */
  readonly name: string;
  readonly contents: IContents;
  /** Show a MIME bundle, untrusted. */
  readonly bundle: (data: PartialJSONObject) => JSX.Element;
  /** Whether there is a page for it, and not a card among others. */
  readonly isWhole?: boolean;
}

export function Preview(props: IPreviewProps): JSX.Element | null {
  const { artifact, name, contents, isWhole = false } = props;
  const { preview, digest } = artifact;
  const { facts } = isWhole ? ON_PAGE : IN_CARD;
  switch (preview.kind) {
    case 'frame':
      return <Frame frame={frameOf(preview)} isWhole={isWhole} />;
    case 'figure':
      return <Figure {...props} preview={preview} />;
    case 'estimator':
      return <Estimator preview={preview} isWhole={isWhole} />;
    case 'array':
      return (
        <>
          <Facts
            facts={arrayFacts(preview).filter(
              ([word]) => isWhole || (word !== 'shape' && word !== 'type')
            )}
            most={facts}
          />
          <Values text={firstValues(preview)} />
        </>
      );
    case 'list':
      return (
        <>
          <Facts
            facts={listFacts(preview).filter(([word]) => isWhole || word !== 'length')}
            most={facts}
          />
          <Values text={firstOf(preview)} />
        </>
      );
    case 'module':
      return <Facts facts={Object.entries({ version: said(preview.version) })} most={facts} />;
    case 'file':
      return (
        <FileLook
          digest={digest}
          name={said(preview.name) || name}
          size={Number(preview.size ?? 0)}
          contents={contents}
          isWhole={isWhole}
        />
      );
    case 'folder':
      return (
        <FolderFiles
          digest={digest}
          name={said(preview.name) || name}
          count={Number(preview.files ?? 0)}
          leftOut={listOf(preview.left_out).map(said)}
          contents={contents}
          isWhole={isWhole}
        />
      );
    default: {
      const text = preview.text ?? preview.repr;
      return typeof text === 'string' ? <pre className="jp-mlb-Preview-text">{text}</pre> : null;
    }
  }
}

interface IFrameProps {
  readonly frame: IFrame;
  readonly isWhole: boolean;
}

/** The first rows of a frame; under each column's name its type, and how many of its values are missing. */
export function Frame({ frame, isWhole }: IFrameProps): JSX.Element | null {
  const { columns, index, height } = frame;
  const rows = frame.rows.slice(0, (isWhole ? ON_PAGE : IN_CARD).rows);
  if (!columns.length) {
    return <p className="jp-mlb-Preview-words">no columns</p>;
  }
  const hasIndex = index.length > 0;
  const hasMissing = columns.some(({ missing }) => missing);
  return (
    <>
      <div className="jp-mlb-Preview-scroll" tabIndex={0} aria-label="First rows" role="region">
        <table className="jp-mlb-Preview-frame">
          <thead>
            <tr>
              {hasIndex && <td />}
              {columns.map(({ name, isNumeric }, at) => (
                <th
                  scope="col"
                  key={at}
                  title={name}
                  className={isNumeric ? 'jp-mod-number' : undefined}
                >
                  {plainly(name)}
                </th>
              ))}
            </tr>
            {columns.some(({ type }) => type) && (
              <tr className="jp-mod-quiet">
                {hasIndex && <td />}
                {columns.map(({ type, isNumeric }, at) => (
                  <td key={at} title={type} className={isNumeric ? 'jp-mod-number' : undefined}>
                    {type}
                  </td>
                ))}
              </tr>
            )}
            {hasMissing && (
              <tr className="jp-mod-quiet">
                {hasIndex && <td />}
                {columns.map(({ missing, isNumeric }, at) => (
                  <td key={at} className={isNumeric ? 'jp-mod-number' : undefined}>
                    {missing ? (
                      <span
                        className="jp-mlb-Preview-missing"
                        title={`${missing.toLocaleString('en-US')} values are missing`}
                      >
                        {height ? percent(missing / height) : missing.toLocaleString('en-US')}{' '}
                        missing
                      </span>
                    ) : null}
                  </td>
                ))}
              </tr>
            )}
          </thead>
          <tbody>
            {rows.map((row, at) => (
              <tr key={at}>
                {hasIndex && <th scope="row">{index[at]}</th>}
                {row.map((value, place) => (
                  <td
                    key={place}
                    title={value.length > 20 ? value : undefined}
                    className={columns[place].isNumeric ? 'jp-mod-number' : undefined}
                  >
                    {value}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <p className="jp-mlb-Preview-words">{frameWords(frame, rows.length)}</p>
    </>
  );
}

interface IEstimatorProps {
  readonly preview: PartialJSONObject;
  readonly isWhole: boolean;
}

/** What an estimator has learned, then what it was given: that is long, and mostly what anybody gets. */
function Estimator({ preview, isWhole }: IEstimatorProps): JSX.Element {
  const { text, parameters, learned, importances, layers } = estimatorOf(preview);
  return (
    <>
      {text && <pre className="jp-mlb-Preview-text jp-mod-call">{text}</pre>}
      <Facts facts={learned} most={(isWhole ? ON_PAGE : IN_CARD).facts} />
      <Weights weights={isWhole ? importances : importances.slice(0, 5)} />
      {layers.length > 0 && (
        <Folded words={counted(layers.length, 'layer')} isOpen={isWhole}>
          <pre className="jp-mlb-Preview-text">{layers.join('\n')}</pre>
        </Folded>
      )}
      {parameters.length > 0 && (
        <Folded words={counted(parameters.length, 'parameter')} isOpen={isWhole}>
          <Facts facts={parameters} most={ON_PAGE.facts} />
        </Folded>
      )}
    </>
  );
}

interface IFoldedProps {
  readonly words: string;
  readonly isOpen: boolean;
  readonly children: React.ReactNode;
}

function Folded({ words, isOpen, children }: IFoldedProps): JSX.Element {
  return (
    <details className="jp-mlb-Preview-more" open={isOpen}>
      <summary>{words}</summary>
      {children}
    </details>
  );
}

/** Features by their weight, the greatest as wide as there is room. */
function Weights({ weights }: { readonly weights: ReadonlyArray<IWeight> }): JSX.Element | null {
  const most = Math.max(...weights.map(({ value }) => Math.abs(value)));
  return weights.length ? (
    <dl className="jp-mlb-Weights" aria-label="Weightiest features">
      {weights.map(({ name, value }) => (
        <React.Fragment key={name}>
          <dt title={name}>{name}</dt>
          <dd>
            <span
              className="jp-mlb-Weights-bar"
              style={{ width: `${most ? (100 * Math.abs(value)) / most : 0}%` }}
            />
          </dd>
          <dd>{figure(value)}</dd>
        </React.Fragment>
      ))}
    </dl>
  ) : null;
}

function Figure(props: IPreviewProps & { readonly preview: PartialJSONObject }): JSX.Element {
  const { preview, contents, bundle } = props;
  const data = objectOf(preview.data);
  const png = preview.png ?? preview.image;
  if (typeof preview.picture === 'string') {
    return (
      <StoredPicture address={contents.pictureUrl(preview.picture)} words={said(preview.text)} />
    );
  }
  if (typeof png === 'string') {
    return bundle({ 'image/png': png });
  }
  return Object.keys(data).length ? (
    bundle(data)
  ) : (
    <pre className="jp-mlb-Preview-text">{said(preview.text)}</pre>
  );
}

interface IStoredPictureProps {
  readonly address: string;
  readonly words: string;
}

function StoredPicture({ address, words }: IStoredPictureProps): JSX.Element {
  const [isGone, setGone] = React.useState(false);
  return isGone ? (
    <p className="jp-mlb-Preview-words">{words}. Its picture is not in the store any more.</p>
  ) : (
    <img
      className="jp-mlb-Preview-picture"
      loading="lazy"
      src={address}
      alt={words}
      onError={() => setGone(true)}
    />
  );
}

interface IFactsProps {
  readonly facts: ReadonlyArray<Fact>;
  readonly most: number;
}

function Facts({ facts, most }: IFactsProps): JSX.Element | null {
  const there = facts.filter(([, value]) => value !== '');
  return there.length ? (
    <dl className="jp-mlb-Facts">
      {there.slice(0, most).map(([name, value]) => (
        <React.Fragment key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </React.Fragment>
      ))}
    </dl>
  ) : null;
}

/** The first values of many, in one line that is cut. */
function Values({ text }: { readonly text: string }): JSX.Element | null {
  return text ? <pre className="jp-mlb-Preview-values">{text}</pre> : null;
}

function firstOf(preview: PartialJSONObject): string {
  const first = listOf(preview.first).map(each => plainly(said(each)));
  return first.length
    ? `${first.join(', ')}${Number(preview.length ?? 0) > first.length ? ', …' : ''}`
    : '';
}
