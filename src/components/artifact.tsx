/**
 * An artifact: what it is, what it was made of, and what was made of it.
 */

import type { PartialJSONObject } from '@lumino/coreutils';
import * as React from 'react';

import type {
  IArtifact,
  IFileUse,
  ILineage,
  ILineageExecution,
  ILineageValue,
  IRun
} from '../api/schema';
import type { IContents } from '../model/contents';
import { exact, fileVerb, millis, moment, plainly, shortened, size } from '../model/format';
import { executionName, LineageRow, rowsAbove, rowsBelow } from '../model/lineage';
import { exactly } from '../model/difference';
import { summary } from '../model/preview';
import { pythonCode, shownSize } from './artifactcard';
import { shortDigest } from './difference';
import { Download } from './files';
import { Preview } from './preview';
import { Copy, Fact, Line, LinkButton, Pair } from './shared';
import { StateIcon } from './stateicon';

/** Lines of a tree that are shown before more are asked for. */
const FEW = 200;
/** Files of an execution that are named. */
const FILES = 6;
/** Characters of a value in a line of a tree. */
const LONGEST = 70;

export interface IArtifactViewProps {
  readonly lineage: ILineage;
  /** Which of the values that are this artifact. */
  readonly value: ILineageValue;
  readonly maker: ILineageExecution | null;
  /** What is shown of it, once it has come. */
  readonly shown: IArtifact | null;
  /** Whether it was logged, and not bound to a name. */
  readonly isLogged: boolean;
  /** The run whose plain cell logged it; null where a step made it. */
  readonly run: IRun | null;
  readonly contents: IContents;
  readonly outputs: (key: string, outputs: ReadonlyArray<PartialJSONObject>) => JSX.Element;
  readonly code: (key: string, text: string) => JSX.Element;
  readonly onLook: (at: number) => void;
  readonly onOpenRun: (run: string, execution: string | null) => void;
  readonly onOpenArtifact: (value: ILineageValue) => void;
}

export function ArtifactView(props: IArtifactViewProps): JSX.Element {
  const { lineage, value, maker, shown, run } = props;
  const bundle = (data: PartialJSONObject) =>
    props.outputs(`preview-${value.digest}`, [{ output_type: 'display_data', data, metadata: {} }]);
  const python = pythonOf(props);
  const above = React.useMemo(() => rowsAbove(lineage, value), [lineage, value]);
  const below = React.useMemo(() => rowsBelow(lineage, value), [lineage, value]);
  return (
    <div className="jp-mlb-Artifact">
      <header className="jp-mlb-RunHead">
        <div className="jp-mlb-RunHead-title">
          <h1>
            <code>{value.name}</code>
          </h1>
          {value.digest && <code title={value.digest}>{shortDigest(value.digest)}</code>}
          <span className="jp-mlb-Execution-actions">
            {shown?.codec === 'file' && (
              <Download digest={shown.digest} name={value.name} contents={props.contents} />
            )}
            {value.digest && <Copy text={value.digest} label="Copy digest" />}
            {python && <Copy text={python} label="Copy Python" />}
          </span>
        </div>
        <dl className="jp-mlb-RunHead-facts">
          <Fact name="What it is">{whatItIs(value, shown)}</Fact>
          {value.size !== null && (
            <Fact name="Size">{size(shown ? shownSize(shown) : value.size)}</Fact>
          )}
          {run && (
            <Fact name="Logged by">
              <LinkButton title="Open its run" onClick={() => props.onOpenRun(run.id, null)}>
                a plain cell of run {run.id.slice(0, 4)}
              </LinkButton>
            </Fact>
          )}
          {run && (
            <Fact name="When">
              <span title={exact(millis(run.started))}>{moment(millis(run.started))}</span>
            </Fact>
          )}
          {maker && (
            <Fact name={props.isLogged ? 'Logged by' : 'Made by'}>
              <LinkButton title="Open its run" onClick={() => props.onOpenRun(maker.run, maker.id)}>
                {executionName(maker)} of run {maker.run.slice(0, 4)}
              </LinkButton>
            </Fact>
          )}
          {maker?.started && (
            <Fact name="When">
              <span title={exact(millis(maker.started))}>{moment(millis(maker.started))}</span>
            </Fact>
          )}
          {maker?.user && <Fact name="Who">{maker.user}</Fact>}
          {maker && Object.keys(maker.parameters).length > 0 && (
            <Fact name="Parameters">
              <Parameters parameters={maker.parameters} />
            </Fact>
          )}
          {maker?.commit && <Fact name="Commit">{maker.commit.slice(0, 8)}</Fact>}
        </dl>
        {lineage.values.length > 1 && (
          <div className="jp-mlb-Artifact-twins">
            <span className="jp-mod-quiet">
              {lineage.values.length} steps have made the same value:
            </span>
            {lineage.values.slice(0, 12).map((each, at) => (
              <TwinButton
                key={at}
                name={twinName(lineage, each)}
                isChosen={each === value}
                onChoose={() => props.onLook(at)}
              />
            ))}
          </div>
        )}
      </header>
      <div className="jp-mlb-Artifact-body">
        <section className="jp-mlb-Artifact-what" aria-label="Preview and code">
          <h2>Preview</h2>
          {shown ? (
            <Preview
              artifact={shown}
              name={value.name}
              contents={props.contents}
              bundle={bundle}
              isWhole
            />
          ) : (
            <p className="jp-mod-quiet">{value.text ?? 'Asking for its preview …'}</p>
          )}
          {maker?.source && (
            <>
              <h2>The code that made it</h2>
              {props.code(`code-${maker.id}`, maker.source)}
            </>
          )}
        </section>
        <section aria-label="Lineage">
          <h2>What it was made of</h2>
          <Tree
            {...props}
            rows={above}
            none={
              run
                ? 'A plain cell logged it: what such a cell reads is not recorded. In a step it is.'
                : 'Who made it is not recorded any more.'
            }
          />
          <h2>What was made of it</h2>
          <Tree
            {...props}
            rows={below}
            none={
              props.isLogged
                ? 'Nothing: what is logged is given to no step.'
                : 'No step has been given it.'
            }
          />
          {lineage.cut && (
            <Line>
              There is more than is followed here: open a value at the edge to go on from it.
            </Line>
          )}
        </section>
      </div>
    </div>
  );
}

interface ITwinButtonProps {
  readonly name: string;
  readonly isChosen: boolean;
  readonly onChoose: () => void;
}

function TwinButton({ name, isChosen, onChoose }: ITwinButtonProps): JSX.Element {
  return isChosen ? (
    <b aria-current="true">{name}</b>
  ) : (
    <LinkButton onClick={onChoose}>{name}</LinkButton>
  );
}

function twinName(lineage: ILineage, value: ILineageValue): string {
  const maker = lineage.executions.find(each => each.id === value.execution);
  return maker
    ? `${value.name} of ${executionName(maker)}, run ${maker.run.slice(0, 4)}`
    : value.name;
}

function whatItIs(value: ILineageValue, shown: IArtifact | null): string {
  return shown ? summary(shown.type, shown.preview) : (value.type?.split('.').pop() ?? 'a value');
}

/** What loads it; of an item there is no shorter way than by its list. */
function pythonOf({ run, maker, value, isLogged }: IArtifactViewProps): string | null {
  if (run) {
    return pythonCode(run.id, null, value.name, true);
  }
  return maker?.item === null ? pythonCode(maker.run, maker.step, value.name, isLogged) : null;
}

function Parameters(props: { readonly parameters: PartialJSONObject }): JSX.Element {
  return (
    <>
      {Object.entries(props.parameters).map(([name, value]) => (
        <Pair key={name} name={name}>
          {exactly(value)}
        </Pair>
      ))}
    </>
  );
}

interface ITreeProps extends IArtifactViewProps {
  readonly rows: ReadonlyArray<LineageRow>;
  /** What is said where there is nothing. */
  readonly none: string;
}

function Tree(props: ITreeProps): JSX.Element {
  const { rows, none } = props;
  const [isWhole, setWhole] = React.useState(false);
  if (!rows.length) {
    return <p className="jp-mod-quiet">{none}</p>;
  }
  const shown = isWhole ? rows : rows.slice(0, FEW);
  return (
    <ul className="jp-mlb-Tree">
      {shown.map((row, at) => (
        <li
          key={at}
          className={`jp-mlb-Tree-row jp-mod-${row.kind}`}
          style={{ marginLeft: row.level * 14 }}
        >
          <TreeLine {...props} row={row} />
        </li>
      ))}
      {rows.length > shown.length && (
        <li>
          <LinkButton onClick={() => setWhole(true)}>
            Show {(rows.length - shown.length).toLocaleString('en-US')} more lines
          </LinkButton>
        </li>
      )}
    </ul>
  );
}

function TreeLine(props: ITreeProps & { readonly row: LineageRow }): JSX.Element {
  const { row } = props;
  switch (row.kind) {
    case 'unknown':
      return <span className="jp-mod-quiet">made by an execution that was not followed</span>;
    case 'modules':
      return (
        <>
          <span className="jp-mlb-Tree-facts">{row.names.length > 1 ? 'modules' : 'module'}</span>
          {row.names.map(name => (
            <code key={name}>{name}</code>
          ))}
        </>
      );
    case 'value':
      return <ValueLine value={row.value} onOpen={props.onOpenArtifact} />;
    case 'execution':
      return (
        <ExecutionLine
          {...row}
          isOfOtherRun={row.execution.run !== props.maker?.run}
          onOpenRun={props.onOpenRun}
        />
      );
  }
}

interface IValueLineProps {
  readonly value: ILineageValue;
  readonly onOpen: (value: ILineageValue) => void;
}

function ValueLine({ value, onOpen }: IValueLineProps): JSX.Element {
  const { name, digest, execution, how } = value;
  const where = how === 'captured' ? 'from the kernel' : how === 'file' ? 'a file' : '';
  const facts = [
    shortened(plainly(value.text?.split('\n')[0] ?? value.type?.split('.').pop() ?? ''), LONGEST),
    value.size === null ? '' : size(value.size),
    where
  ];
  return (
    <>
      {digest && execution ? (
        <LinkButton title={`Open ${name}: ${digest}`} onClick={() => onOpen(value)}>
          <code>{name}</code>
        </LinkButton>
      ) : (
        <code>{name}</code>
      )}
      <span className="jp-mlb-Tree-facts" title={value.text ?? undefined}>
        {facts.filter(Boolean).join(' · ')}
      </span>
    </>
  );
}

interface IExecutionLineProps {
  readonly execution: ILineageExecution;
  readonly verb: string;
  readonly isAgain: boolean;
  /** Whether its run is not that of the artifact, whose parameters stand in the head. */
  readonly isOfOtherRun: boolean;
  readonly onOpenRun: (run: string, execution: string | null) => void;
}

function ExecutionLine(props: IExecutionLineProps): JSX.Element {
  const { execution, verb, isAgain, isOfOtherRun, onOpenRun } = props;
  const { run, started, parameters, code, reused_in } = execution;
  const files = execution.files.filter(each => each.mode !== 'l');
  return (
    <>
      <span className="jp-mod-quiet">{verb}</span>
      <StateIcon state={execution.state} size={12} />
      <LinkButton title="Open its run" onClick={() => onOpenRun(run, execution.id)}>
        {executionName(execution)}
      </LinkButton>
      <span
        className="jp-mlb-Tree-facts"
        title={started === null ? undefined : exact(millis(started))}
      >
        run {run.slice(0, 4)}
        {started === null ? '' : `, ${moment(millis(started))}`}
        {isAgain ? ' · told above' : ''}
      </span>
      {!isAgain && (
        <span className="jp-mlb-Tree-more">
          {code && <span title={execution.source ?? undefined}>code {code.slice(0, 8)}</span>}
          {isOfOtherRun && Object.keys(parameters).length > 0 && (
            <span>
              <Parameters parameters={parameters} />
            </span>
          )}
          {files.slice(0, FILES).map((file, at) => (
            <span key={at} title={file.path}>
              {fileWords(file)}
            </span>
          ))}
          {files.length > FILES && <span>and {files.length - FILES} more files</span>}
          {reused_in.length > 0 && (
            <span>
              reused in{' '}
              {reused_in.slice(0, FILES).map(each => (
                <LinkButton key={each} onClick={() => onOpenRun(each, null)}>
                  {each.slice(0, 4)}{' '}
                </LinkButton>
              ))}
            </span>
          )}
        </span>
      )}
    </>
  );
}

function fileWords({ path, mode, size: bytes }: IFileUse): string {
  const name = path.split('/').pop() ?? path;
  return `${fileVerb({ mode, size: bytes })} ${name}${bytes === null ? '' : ` (${size(bytes)})`}`;
}
