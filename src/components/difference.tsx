/**
 * What differs between two runs, part by part, in the order in which it matters.
 */

import * as React from 'react';

import type { IArtifactName } from '../api/client';
import type {
  IArtifactChange,
  ICodeChange,
  IDataChange,
  IDifference,
  IFanOutChange,
  IRunDetail
} from '../api/schema';
import type { CodeLayout } from '../model/comparison';
import {
  alike,
  boundIn,
  fanOutWords,
  hunkWords,
  ISideRow,
  isEmpty,
  itemWords,
  lineCounts,
  loggedIn,
  metricDifference,
  parameterSides,
  Part,
  PARTS,
  said,
  sideBySide
} from '../model/difference';
import { exact, millis, moment, plainly, shortened } from '../model/format';
import { runName } from './runlist';
import { Copy, Line, LinkButton, Segments } from './shared';
import { ShownState, StateIcon } from './stateicon';

/** Items of a fan-out that are listed before more are asked for. */
const FEW = 40;
/** Lines of a cell's difference from which on it is folded. */
const MANY_LINES = 80;
/** Characters of what is said of a value. */
const LONGEST = 200;

export interface IDifferenceProps {
  readonly difference: IDifference;
  readonly before: IRunDetail;
  readonly after: IRunDetail;
  readonly layout: CodeLayout;
  readonly onLayout: (layout: CodeLayout) => void;
  readonly onOpenRun: (run: string) => void;
  readonly onOpenArtifact: (artifact: IArtifactName) => void;
}

const LAYOUTS: ReadonlyArray<readonly [CodeLayout, string]> = [
  ['beside', 'Side by side'],
  ['unified', 'Unified']
];

export function DifferenceView(props: IDifferenceProps): JSX.Element {
  const { difference, before, after } = props;
  const same = alike(difference);
  const command = `mlbench diff ${short(before.run.id)} ${short(after.run.id)}`;
  return (
    <div className="jp-mlb-Difference">
      <header className="jp-mlb-RunHead">
        <div className="jp-mlb-RunHead-title">
          <h1>{isEmpty(difference) ? 'Nothing differs' : 'What differs'}</h1>
        </div>
        <dl className="jp-mlb-RunHead-facts">
          <RunFact name="Before" detail={before} onOpenRun={props.onOpenRun} />
          <RunFact name="After" detail={after} onOpenRun={props.onOpenRun} />
        </dl>
      </header>
      <div className="jp-mlb-Difference-body">
        {isEmpty(difference) && (
          <Line>
            Code, parameters, data, artifacts, environment, metrics and outcome of the two runs are
            the same.
          </Line>
        )}
        {PARTS.filter(([part]) => difference[part].length > 0).map(([part, title]) => (
          <section key={part} aria-label={title} data-part={part}>
            <div className="jp-mlb-Difference-head">
              <h2>{title}</h2>
              <span className="jp-mod-quiet">{countWords(part, difference)}</span>
              {part === 'code' && (
                <Segments
                  label="How the lines stand"
                  choices={LAYOUTS}
                  chosen={props.layout}
                  onChoose={props.onLayout}
                />
              )}
            </div>
            <PartBody {...props} part={part} />
          </section>
        ))}
        {!isEmpty(difference) && (
          <p className="jp-mlb-Difference-foot">
            {same.length > 0 && <span>The same in both: {same.join(', ')}. </span>}
            {difference.data.length > 0 && (
              <span>
                What is said of data comes from previews. In a terminal, <code>{command}</code>{' '}
                loads frames and arrays, and says where they first differ.{' '}
                <Copy text={command} label="Copy" />
              </span>
            )}
          </p>
        )}
      </div>
    </div>
  );
}

interface IRunFactProps {
  readonly name: string;
  readonly detail: IRunDetail;
  readonly onOpenRun: (run: string) => void;
}

function RunFact({ name, detail, onOpenRun }: IRunFactProps): JSX.Element {
  const { run } = detail;
  const started = millis(run.started);
  return (
    <div>
      <dt>{name}</dt>
      <dd className="jp-mlb-Difference-run">
        <StateIcon state={run.state} />
        <LinkButton title="Open this run" onClick={() => onOpenRun(run.id)}>
          {runName(detail)} {short(run.id)}
        </LinkButton>
        <span className="jp-mod-quiet" title={exact(started)}>
          {moment(started)}
          {run.user ? `, ${run.user}` : ''}
        </span>
      </dd>
    </div>
  );
}

interface IPartBodyProps extends IDifferenceProps {
  readonly part: Part;
}

function PartBody(props: IPartBodyProps): JSX.Element {
  const { difference, part } = props;
  switch (part) {
    case 'code':
      return (
        <>
          {difference.code.map((change, at) => (
            <CodeCard key={at} change={change} layout={props.layout} />
          ))}
        </>
      );
    case 'parameters':
      return (
        <Pairs
          {...props}
          rows={difference.parameters.map(change => {
            const [before, after] = parameterSides(change);
            return { name: change.name, before, after };
          })}
        />
      );
    case 'environment':
      return (
        <Pairs
          {...props}
          rows={difference.environment.map(each => ({ ...each, name: each.part }))}
        />
      );
    case 'data':
      return (
        <Values
          {...props}
          rows={difference.data}
          open={(detail, digest, _, { step, name }) => boundIn(detail, digest, step, name)}
        />
      );
    case 'artifacts':
      return (
        <Values
          {...props}
          rows={difference.artifacts}
          open={(detail, digest, execution, { name }) => loggedIn(detail, digest, execution, name)}
        />
      );
    case 'metrics':
      return (
        <Pairs
          {...props}
          isNumeric
          rows={difference.metrics.map(each => ({
            name: each.step === null ? each.name : `${each.step}.${each.name}`,
            before: each.before === null ? null : said(each.before),
            after: each.after === null ? null : said(each.after),
            by: metricDifference(each)
          }))}
        />
      );
    case 'outcome':
      return (
        <Pairs
          {...props}
          hasStates
          rows={difference.outcome.map(each => ({ ...each, name: each.step ?? 'the run' }))}
        />
      );
    case 'items':
      return (
        <>
          {difference.items.map(each => (
            <FanOut key={each.step} change={each} />
          ))}
        </>
      );
  }
}

function countWords(part: Part, difference: IDifference): string {
  return part === 'items' || difference[part].length < 2 ? '' : String(difference[part].length);
}

interface ICodeCardProps {
  readonly change: ICodeChange;
  readonly layout: CodeLayout;
}

/** A cell or a module, as nbdime shows it: unified, or the two versions beside each other. */
function CodeCard({ change, layout }: ICodeCardProps): JSX.Element {
  const { what, name, type, diff } = change;
  const kind = what === 'module' ? 'module ' : type === 'code' ? '' : `${type} `;
  const isOneSided = change.change === 'added' || change.change === 'removed';
  return (
    <details className="jp-mlb-Code" open={diff.length < MANY_LINES}>
      <summary>
        <b>
          {kind}
          {name}
        </b>{' '}
        <span className="jp-mod-quiet">
          {[change.change, lineCounts(change)].filter(Boolean).join(' · ')}
        </span>
      </summary>
      {diff.length > 0 &&
        (layout === 'beside' && !isOneSided ? (
          <Beside rows={sideBySide(diff)} />
        ) : (
          <Unified diff={isOneSided ? diff.slice(1) : diff} />
        ))}
    </details>
  );
}

function Unified({ diff }: { readonly diff: ReadonlyArray<string> }): JSX.Element {
  return (
    <div className="jp-mlb-Code-lines">
      {diff.map((line, at) =>
        line.startsWith('@@') ? (
          <Place key={at} words={hunkWords(line)} />
        ) : (
          <div key={at} className={`jp-mlb-Code-line${signClass(line)}`}>
            <span className="jp-mlb-Code-sign">{sign(line)}</span>
            <code>{line.slice(1)}</code>
          </div>
        )
      )}
    </div>
  );
}

function Beside({ rows }: { readonly rows: ReadonlyArray<ISideRow> }): JSX.Element {
  return (
    <div className="jp-mlb-Code-lines jp-mod-beside">
      {rows.map(({ head, before, after }, at) =>
        head !== undefined ? (
          <Place key={at} words={head} />
        ) : (
          <React.Fragment key={at}>
            <div
              className={`jp-mlb-Code-line jp-mod-before${before ? (before.isChanged ? ' jp-mod-removed' : '') : ' jp-mod-none'}`}
            >
              <span className="jp-mlb-Code-sign">{before?.isChanged ? '−' : ''}</span>
              <code>{before?.text}</code>
            </div>
            <div
              className={`jp-mlb-Code-line${after ? (after.isChanged ? ' jp-mod-added' : '') : ' jp-mod-none'}`}
            >
              <span className="jp-mlb-Code-sign">{after?.isChanged ? '+' : ''}</span>
              <code>{after?.text}</code>
            </div>
          </React.Fragment>
        )
      )}
    </div>
  );
}

/** Where the lines below stand, which is not said of a beginning. */
function Place({ words }: { readonly words: string }): JSX.Element | null {
  return words === 'line 1' ? null : <div className="jp-mlb-Code-place">{words}</div>;
}

function signClass(line: string): string {
  return line.startsWith('+') ? ' jp-mod-added' : line.startsWith('-') ? ' jp-mod-removed' : '';
}

function sign(line: string): string {
  return line.startsWith('+') ? '+' : line.startsWith('-') ? '−' : '';
}

interface IPairsProps {
  readonly before: IRunDetail;
  readonly after: IRunDetail;
  readonly rows: ReadonlyArray<{
    readonly name: string;
    readonly before: string | null;
    readonly after: string | null;
    /** By how much. */
    readonly by?: string;
  }>;
  readonly isNumeric?: boolean;
  readonly hasStates?: boolean;
}

/** What it was and what it is, by name. */
function Pairs({ before, after, rows, isNumeric, hasStates }: IPairsProps): JSX.Element {
  const kind = isNumeric ? 'jp-mod-number' : undefined;
  const cell = (value: string | null, gone: string) => (
    <td className={kind}>
      {value === null ? (
        <span className="jp-mod-quiet">{gone}</span>
      ) : (
        <div className="jp-mlb-Pairs-value">
          {hasStates && <StateIcon state={stateOf(value)} />} {value}
        </div>
      )}
    </td>
  );
  return (
    <table className="jp-mlb-Pairs">
      <thead>
        <tr>
          <th scope="col" />
          <th scope="col" className={kind}>
            run {short(before.run.id)}
          </th>
          <th scope="col" className={kind}>
            run {short(after.run.id)}
          </th>
          {isNumeric && (
            <th scope="col" className={kind}>
              by
            </th>
          )}
        </tr>
      </thead>
      <tbody>
        {rows.map(row => (
          <tr key={row.name}>
            <th scope="row">{row.name}</th>
            {cell(row.before, 'not there')}
            {cell(row.after, 'not there')}
            {isNumeric && <td className={kind}>{row.by}</td>}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function stateOf(outcome: string): ShownState {
  const [word] = outcome.split(/[ :]/);
  const states: ReadonlyArray<string> = [
    'queued',
    'running',
    'succeeded',
    'failed',
    'cancelled',
    'skipped'
  ];
  return states.includes(word) ? (word as ShownState) : 'none';
}

interface IValuesProps<T> extends IDifferenceProps {
  readonly rows: ReadonlyArray<T>;
  /** The artifact of one of the two runs, with the execution that has it. */
  readonly open: (
    detail: IRunDetail,
    digest: string,
    execution: string | null,
    row: T
  ) => IArtifactName;
}

/** Which names were bound to something else, or what was logged under them is, and in which way that differs. */
function Values<T extends IDataChange | IArtifactChange>(props: IValuesProps<T>): JSX.Element {
  const { rows, before, after } = props;
  const link = (detail: IRunDetail, digest: string | null, execution: string | null, row: T) =>
    digest === null ? (
      <span className="jp-mod-quiet">not there</span>
    ) : (
      <LinkButton
        title={`Open ${digest}: where it comes from and what was made of it`}
        onClick={() => props.onOpenArtifact(props.open(detail, digest, execution, row))}
      >
        <code>{shortDigest(digest)}</code>
      </LinkButton>
    );
  return (
    <table className="jp-mlb-Pairs">
      <thead>
        <tr>
          <th scope="col" />
          <th scope="col">run {short(before.run.id)}</th>
          <th scope="col">run {short(after.run.id)}</th>
          <th scope="col">in which way</th>
        </tr>
      </thead>
      <tbody>
        {rows.map(each => (
          <tr key={`${each.step} ${each.name}`}>
            <th scope="row">
              {each.name} <span className="jp-mod-quiet">of {each.step ?? 'the run'}</span>
            </th>
            <td>{link(before, each.before, each.before_execution, each)}</td>
            <td>{link(after, each.after, each.after_execution, each)}</td>
            <td className="jp-mod-wide">
              {each.details.map((detail, at) => (
                <div key={at} title={detail}>
                  {shortened(plainly(detail, 6), LONGEST)}
                </div>
              ))}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function FanOut({ change }: { readonly change: IFanOutChange }): JSX.Element {
  const [isWhole, setWhole] = React.useState(false);
  const items = isWhole ? change.items : change.items.slice(0, FEW);
  const left = change.items.length - items.length;
  const unnamed = change.differing + change.added + change.removed - change.items.length;
  return (
    <div className="jp-mlb-Code">
      <p>
        <b>{change.step}</b> <span className="jp-mod-quiet">{fanOutWords(change)}</span>
      </p>
      <table className="jp-mlb-Pairs">
        <tbody>
          {items.map((item, at) => (
            <tr key={at}>
              <th scope="row">{plainly(Object.values(item.label).join(', ')) || 'an item'}</th>
              <td className="jp-mod-wide">{itemWords(item)}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {left > 0 && (
        <LinkButton onClick={() => setWhole(true)}>
          Show {left.toLocaleString('en-US')} more
        </LinkButton>
      )}
      {left <= 0 && unnamed > 0 && (
        <span className="jp-mod-quiet">and {unnamed.toLocaleString('en-US')} more</span>
      )}
    </div>
  );
}

function short(id: string): string {
  return id.slice(0, 4);
}

/** The beginning of a digest, as it is named everywhere. */
export function shortDigest(digest: string): string {
  return (digest.split(':')[1] ?? digest).slice(0, 8);
}
